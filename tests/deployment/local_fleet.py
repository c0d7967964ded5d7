"""A federation of real processes on this machine, and what tests ask of it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fedgraft
from clients.site.ledger_check import verify
from clients.site.ledger_lines import Recorded
from fedgraft.deployed_runs import submit
from fedgraft.progress import listening
from fedgraft.rehearsal import OWN_SCENARIO, THREE, Fleet, digits_for, fleet
from fedgraft.runs import Run
from fedgraft.tensor_files import read_tensors
from scenarios.schema import Scenario


@contextlib.contextmanager
def running_fleet(policy: str = "", log_file: Path | None = None, **scenario: Any) -> Iterator[Fleet]:
    """Yield three sites and a server; afterwards none of their processes is left."""
    import tempfile

    chosen = Scenario.model_validate_json(json.dumps({**OWN_SCENARIO, **scenario}))
    started: set[int] = set()
    with tempfile.TemporaryDirectory(prefix="fg-", dir="/tmp") as folder:
        log_file = log_file or Path(os.environ.get("FLEET_LOG", f"{folder}/log"))
        with fleet(Path(folder), THREE, chosen, policy, log_file) as running:
            yield running
            started = set(running.supervisor.process_ids().values())
            started |= {below for pid in started for below in descendants(pid)}
        deadline = time.monotonic() + 5  # who was killed is gone when the kernel says so
        while (left := {pid for pid in started if is_alive(pid)}) and time.monotonic() < deadline:
            time.sleep(0.05)
        commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left if is_alive(pid)}
        assert commands == {}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(parent: int) -> set[int]:
    """Return the ids of all living processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] != "Z":
                children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, waiting = set(), [parent]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


@dataclass
class Seen:
    """What a follower has been shown of a run."""

    notes: list[str] = field(default_factory=list)
    round: int = 0


def run(
    running: Fleet, out: Path, steps: Callable[[Seen], Iterator[None]] | None = None, **changes: Any
) -> tuple[Run, list[str]]:
    """Submit the fleet's scenario and return the finished run and the notes that were shown.

    Args:
        running: the fleet.
        out: the run directory.
        steps: what happens meanwhile; a generator that is resumed a few times a second.
        changes: of the scenario, by key.
    """
    return followed(running, steps, lambda **options: submit(changed(running, changes), running.server, **options), out)


def followed(
    running: Fleet, steps: Callable[[Seen], Iterator[None]] | None, start: Callable[..., Run], out: Path
) -> tuple[Run, list[str]]:
    """Start a run, look after the fleet until it has ended, and return it and the notes."""
    seen = Seen()
    course = iter(()) if steps is None else steps(seen)

    def event(given: Any) -> None:
        if given["kind"] == "note":
            seen.notes.append(given["text"])
        if given["kind"] == "round":
            seen.round = given["number"]

    def poll() -> None:
        running.turn()
        next(course, None)

    with listening(event):
        return start(out=out, on_poll=poll), seen.notes


def changed(running: Fleet, changes: dict[str, Any]) -> Scenario:
    """Return the fleet's scenario with other values of some keys."""
    return Scenario.model_validate_json(json.dumps({**json.loads(running.scenario.model_dump_json()), **changes}))


def until_round(seen: Seen, number: int) -> Iterator[None]:
    """Wait until a round has ended."""
    while seen.round < number:
        yield


def pause(seconds: float) -> Iterator[None]:
    """Wait."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def head_of(found: Run) -> dict[str, np.ndarray]:
    return read_tensors(found.directory / "head.safetensors")[0]


def in_one_process(running: Fleet, folder: Path, out: Path, **changes: Any) -> Run:
    """Run the same scenario inline, over the same samples of the same clients."""
    scenario = changed(running, changes)
    names = [site.settings.name for site in running.sites]
    paths = digits_for(names, folder, images=scenario.backbone.name != "identity")
    return inline(scenario, paths, folder, out)


def inline(scenario: Scenario, paths: Mapping[str, Path], folder: Path, out: Path) -> Run:
    """Run a scenario inline, over the samples in some files; each file is one client's."""
    parts = [np.load(path, allow_pickle=False) for path in paths.values()]
    owners = np.concatenate([np.full(len(part["labels"]), name) for name, part in zip(paths, parts, strict=True)])
    kinds = set(parts[0].files) - {"label_names"}
    columns = {key: np.concatenate([part[key] for part in parts]) for key in kinds}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "all.npz", client=owners, label_names=parts[0]["label_names"], **columns)
    data = {
        "source": {"name": "arrays", "path": str(folder / "all.npz")},
        "partition": "natural",
        "test_fraction": 0.0,
    }
    values = {**json.loads(scenario.model_dump_json()), "data": data}
    return fedgraft.run(Scenario.model_validate_json(json.dumps(values)), out=out)


def greatest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Return max|a - b| / max|b| over all arrays."""
    assert one.keys() == other.keys()
    return max(float(np.abs(one[name] - other[name]).max() / np.abs(other[name]).max()) for name in other)


def ledgers(running: Fleet) -> dict[str, list[Recorded]]:
    found = {}
    for site in running.sites:
        verification = verify(site.ledger)
        assert verification.faults == ()
        found[site.settings.name] = list(verification.lines)
    return found


def wait_for(running: Fleet, what: Callable[[], bool], seconds: float = 120.0) -> None:
    """Look after the processes until something has happened."""
    deadline = time.monotonic() + seconds
    while not what():
        running.supervisor.turn()
        assert time.monotonic() < deadline, "it did not happen in time"
