"""What each client of a finished run contributed, and the run without one: for closed forms, exactly.

A run with `evaluation: {contribution: true}` leaves the head without each client beside its own.
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgraft.errors import StoreError, listed, nearest
from fedgraft.files import write_text
from fedgraft.tensor_files import read_tensors, save_tensors
from server.run_directory import CONTRIBUTION_FILE, HEADS_FILE

if TYPE_CHECKING:
    from fedgraft.runs import Run


@dataclass(frozen=True)
class Contribution:
    """What a client's training samples changed.

    Attributes:
        client: its name.
        num_train: its training samples.
        metric: what is compared, on the central test part: accuracy, or mean squared error.
        score: of the head of all clients; None if the run had no central test part.
        score_without: of the head without this client.
    """

    client: str
    num_train: int
    metric: str
    score: float | None
    score_without: float | None

    @property
    def effect(self) -> float | None:
        """The score less that without the client: above 0, accuracy gained by it."""
        return None if self.score is None or self.score_without is None else self.score - self.score_without


def contributions(run: Run) -> list[Contribution]:
    """Return each client's contribution, in the order of their names.

    Raises:
        StoreError: the run is not finished, or was not asked for contributions.
    """
    path = _file(run, CONTRIBUTION_FILE)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    return [
        Contribution(
            row[0], int(row[1]), header[2], *((float(row[2]), float(row[3])) if len(row) > 2 else (None, None))
        )
        for row in rows
    ]


def unlearn(run: Run, client: str, to: str | Path) -> Path:
    """Write a run directory whose head is the one without a client, as if it had never been there; return its path.

    Nothing that the client has touched goes along: no checkpoints, no rounds, no heads without others.

    Args:
        run: a finished run with contributions.
        client: the client's name.
        to: the new run directory.

    Raises:
        StoreError: there is no such client, `to` holds a run already, or the run has no such heads.
    """
    path = Path(to)
    if (path / "run.json").exists():
        raise StoreError(f"{path} already holds a run; give another folder")
    heads, facts = read_tensors(_file(run, HEADS_FILE))
    names: list[str] = facts["clients"]
    if client not in names:
        raise StoreError(
            f"the run in {run.directory} has no client {client!r}{nearest(client, names)}; clients: {listed(names, 20)}"
        )
    number = names.index(client)
    path.mkdir(parents=True, exist_ok=True)
    shutil.copy2(run.directory / "scenario.yaml", path / "scenario.yaml")
    write_text(path / "run.json", json.dumps({**run.facts, "without": client}, indent=2) + "\n")
    write_text(path / "metrics.jsonl", "")
    head = {name: value[number] for name, value in heads.items()}
    save_tensors(path / "head.safetensors", head, {"schema": facts["schema"], "round": facts["round"]})
    summary = _summary_without(run, contributions(run)[number])
    write_text(path / "summary.json", json.dumps(summary, indent=2) + "\n")
    return path


def _summary_without(run: Run, left_out: Contribution) -> dict[str, Any]:
    """Return the run's summary, with what is known of the head without a client and nothing of the other."""
    summary = {name: value for name, value in run.summary.items() if name != "central_confusion"}
    score = left_out.score_without
    return summary | {
        "without": left_out.client,
        "num_clients": summary["num_clients"] - 1,
        "num_train": summary["num_train"] - left_out.num_train,
        "central": {} if score is None else {left_out.metric: score},
        "validation": {},
    }


def _file(run: Run, name: str) -> Path:
    path = run.directory / name
    if not run.finished:
        raise StoreError(f"the run in {run.directory} is not finished; go on with it: fedgraft run ... --resume")
    if not path.exists():
        raise StoreError(
            f"the run in {run.directory} kept no {name}; run it with a closed form (ridge, ncm, lda, fedcof) and "
            "--set evaluation.contribution=true"
        )
    return path
