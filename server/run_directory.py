"""The run directory: everything that a run leaves, written so that a kill at any moment loses at most one part.

| file | content |
| --- | --- |
| `run.json` | schema and protocol numbers, run id, seed, versions, git revision if any |
| `scenario.yaml` | the resolved scenario |
| `metrics.jsonl` | one row a round and group: `train`, `validation`, `central`, `personal`, `tasks`; its stage |
| `client_metrics.csv` | one row a round, client and part |
| `checkpoints/round-*.safetensors` | head, strategy state and counters; the last two |
| `client-state/` | what clients keep from round to round; written by the hosts |
| `alignment.safetensors` | where `align` is set: what features are brought onto |
| `head.safetensors` | the head after the last round |
| `summary.json`, `summary.txt` | what came out; `summary.json` is written last and marks a finished run |
| `accuracy.png`, `partition.png` | pictures |
| `tasks.csv` | where classes arrive task by task: accuracy on each task after each |
| `label_shift.csv` | if asked for: each client's score with its own label priors |
| `contribution.csv`, `heads-without.safetensors` | of closed forms, if asked for: what each client changed |
| `events.jsonl` | what the command line shows while the run goes on |
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import platform
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray

from fedgraft import __version__
from fedgraft.errors import StoreError, WireError
from fedgraft.files import write_text
from fedgraft.progress import listening
from fedgraft.stages import stage_of
from fedgraft.submission import Submission
from fedgraft.wire.protocol import PROTOCOL, SCHEMA, check_number

CONTRIBUTION_FILE = "contribution.csv"
HEADS_FILE = "heads-without.safetensors"
CLIENT_COLUMNS = "round,client,part,num_samples,steps,loss,score,loss_before,loss_after\n"
_FITS = ("train_loss", "train_score", "train_loss_before", "train_loss_after")
_LIBRARIES = ("flwr", "torch", "torchvision", "timm", "numpy", "ray", "flwr-datasets")


class RunDirectory:
    """Writes and reads one run's folder.

    Raises:
        StoreError: the folder can't be written, holds another run, or the disk is full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.latest: dict[str, float] = {}
        """The last value of each metric, `group/metric`, for whoever shows the run's progress."""
        self.stages: Mapping[str, int] = {}
        """Name and last round of each stage; empty for a run of one piece."""

    def create(self, submission: Submission) -> None:
        """Make the folder of a new run.

        Raises:
            StoreError: there is a run in it already, or it can't be written.
        """
        if (self.path / "run.json").exists():
            raise StoreError(
                f"{self.path} already holds a run; give another folder with --out, or --resume to go on with it"
            )
        scenario = json.loads(submission.scenario_json)
        write_text(self.path / "scenario.yaml", yaml.safe_dump(scenario, sort_keys=False, allow_unicode=True))
        self.restart()
        facts = {"run_id": submission.run.run_id, "name": scenario["name"], "seed": scenario["seed"]}
        write_text(self.path / "run.json", json.dumps({**facts, **environment()}, indent=2) + "\n")

    def restart(self) -> None:
        """Empty the growing files: the run begins at round 0."""
        write_text(self.path / "metrics.jsonl", "")
        write_text(self.path / "client_metrics.csv", CLIENT_COLUMNS)
        write_text(self.path / "events.jsonl", "")

    def facts(self) -> dict[str, Any]:
        """Return `run.json`.

        Raises:
            StoreError: there is no run here, or another release wrote it.
        """
        try:
            facts: dict[str, Any] = json.loads((self.path / "run.json").read_text())
            check_number("schema", facts.get("schema"), SCHEMA, f"run directory {self.path}")
        except FileNotFoundError:
            raise StoreError(f"{self.path} holds no run (it has no run.json)") from None
        except (json.JSONDecodeError, AttributeError) as error:
            raise StoreError(f"{self.path / 'run.json'} is damaged: {error}") from error
        except WireError as error:
            raise StoreError(str(error)) from error
        return facts

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.path / "summary.json").exists()

    def append(self, name: str, text: str) -> None:
        """Append whole lines to a file of the run."""
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise _unwritable(self.path / name, error) from error

    def row(self, round_number: int, group: str, values: Mapping[str, Any]) -> None:
        """Append a row to `metrics.jsonl`."""
        numbers = {name: value for name, value in values.items() if isinstance(value, float)}
        self.latest |= {f"{group}/{name}": value for name, value in numbers.items()}
        names = list(self.stages)
        stage = {"stage": names[stage_of(list(self.stages.values()), round_number)]} if names else {}
        self.append("metrics.jsonl", json.dumps({"round": round_number, "group": group, **stage, **values}) + "\n")

    def client_rows(self, round_number: int, names: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> None:
        """Append what is known of each client to `client_metrics.csv`.

        Part `train` is of round `round_number`; part `validation` is of the head after the round before, and part
        `personal` of each client's own head then, on the same samples.
        """
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        if "steps" in columns:
            fits = zip(*(columns.get(name, itertools.repeat(None)) for name in _FITS), strict=False)
            writer.writerows(
                (
                    *(round_number, name, "train", int(count), int(steps)),
                    *("" if value is None or not steps else f"{value:.7g}" for value in values),
                )
                for name, count, steps, values in zip(names, columns["num_train"], columns["steps"], fits, strict=True)
            )
        for part in ("validation", "personal"):
            if f"{part}_loss" not in columns:
                continue
            scores = (columns["num_validation"], columns[f"{part}_loss"], columns[f"{part}_score"])
            writer.writerows(
                (round_number - 1, name, part, int(count), "", f"{loss:.7g}", f"{score:.7g}", "", "")
                for name, count, loss, score in zip(names, *scores, strict=True)
                if count
            )
        self.append("client_metrics.csv", buffer.getvalue())

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Write the events of the block to `events.jsonl`, for a command line in another process."""

        def write(event: Mapping[str, Any]) -> None:
            self.append("events.jsonl", json.dumps(dict(event)) + "\n")

        with listening(write):
            yield

    def sizes(self) -> dict[str, int]:
        """Return the lengths of the growing files, flushed to disk; a checkpoint names them."""
        lengths = {}
        for name in ("metrics.jsonl", "client_metrics.csv"):
            try:
                with (self.path / name).open("rb") as file:
                    os.fsync(file.fileno())
                    lengths[name] = file.seek(0, os.SEEK_END)
            except OSError as error:
                raise _unwritable(self.path / name, error) from error
        return lengths

    def truncate(self, sizes: Mapping[str, int]) -> None:
        """Cut the growing files back to what a checkpoint saw; the rounds after it are run again.

        Raises:
            StoreError: a file has lost rows that the checkpoint saw.
        """
        for name, length in sizes.items():
            path = self.path / name
            there = path.stat().st_size if path.exists() else 0
            if there < length:
                raise StoreError(
                    f"{path} has {there:,} bytes, the checkpoint saw {length:,}: rows are lost; "
                    "put the file back, or start a new run"
                )
            try:
                os.truncate(path, length)
            except OSError as error:
                raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"can't write {path}: {error.strerror or error}; free space, then go on with --resume")


def new_directory(parent: Path, name: str) -> Path:
    """Return a path for a new run below `parent`: its name, the time, and a few letters against doubles."""
    return parent / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def environment() -> dict[str, Any]:
    """Return what a result may depend on besides the scenario: versions, machine, revision."""
    return {
        "schema": SCHEMA,
        "protocol": PROTOCOL,
        "fedgraft": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "git_revision": git_revision(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": " ".join(["fedgraft", *sys.argv[1:]]) if Path(sys.argv[0]).name == "fedgraft" else None,
    }


def git_revision() -> str | None:
    """Return the revision of the checkout that FedGraft runs from, with `+changes` if it was edited, or None."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        run = ["git", "-C", str(root)]
        revision = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run(
            [*run, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
