"""Checkpoints: everything that lives between two rounds, in one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import StoreError
from fedgraft.progress import report
from fedgraft.tensor_files import read_tensors, save_tensors, tensors_digest
from fedgraft.wire.protocol import SCHEMA

Arrays = Mapping[str, NDArray[Any]]

KEPT = 2
"""Checkpoints that are kept: the last, and one more should the last turn out to be damaged."""


@dataclass
class Counters:
    """What a run has cost so far.

    `seconds` by phase; bytes are payloads as `fedgraft.wire.records.record_bytes` counts them.
    """

    bytes_down: int = 0
    bytes_up: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def spend(self, phase: str, seconds: float) -> None:
        """Add seconds to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


@dataclass(frozen=True)
class Best:
    """The head with the lowest validation loss so far, where a run may stop early.

    Attributes:
        round_number: the round that it came out of.
        loss: over the validation parts of the clients that were asked.
        head: its arrays, those of trained blocks included.
        last_round: the last round whose head was evaluated.
    """

    round_number: int
    loss: float
    head: Arrays
    last_round: int


@dataclass(frozen=True)
class Checkpoint:
    """The state after `round_number` rounds; `sizes` are the lengths of the run's growing files then.

    `versions` `(num_clients,)` are those of the clients' own state, which lies with their hosts; empty without any.
    `best` is the head with the lowest validation loss, where a run may stop early. `past` are sums of earlier tasks,
    where classes arrive task by task.
    """

    round_number: int
    head: Arrays
    state: Arrays
    counters: Counters
    sizes: Mapping[str, int]
    versions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    best: Best | None = None
    past: Arrays = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole, then remove all but the last `KEPT`.

    Raises:
        StoreError: the disk is full, or the folder can't be written.
    """
    arrays = {f"head/{name}": value for name, value in checkpoint.head.items()}
    arrays |= {f"state/{name}": value for name, value in checkpoint.state.items()}
    arrays |= {f"past/{name}": value for name, value in checkpoint.past.items()}
    if len(checkpoint.versions):
        arrays["clients/version"] = checkpoint.versions
    best = checkpoint.best
    if best is not None:
        arrays |= {f"best/{name}": value for name, value in best.head.items()}
    facts = {
        "schema": SCHEMA,
        "round": checkpoint.round_number,
        "counters": asdict(checkpoint.counters),
        "sizes": dict(checkpoint.sizes),
        **(
            {"best": {"round": best.round_number, "loss": best.loss, "last_round": best.last_round}}
            if best is not None
            else {}
        ),
    }
    facts["digest"] = tensors_digest(arrays, facts)
    save_tensors(folder / f"round-{checkpoint.round_number:06d}.safetensors", arrays, facts)
    left_by_a_kill = folder.glob(".round-*.tmp")
    for old in [*sorted(folder.glob("round-*.safetensors"))[:-KEPT], *left_by_a_kill]:
        old.unlink()


def last_checkpoint(folder: Path, before: int | None = None) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None if there is none; say which ones are damaged.

    Args:
        folder: where they lie.
        before: only those after fewer rounds than this.

    Raises:
        StoreError: another release wrote it.
    """
    for path in sorted(folder.glob("round-*.safetensors"), reverse=True):
        if before is not None and int(path.stem.rpartition("-")[2]) >= before:
            continue
        checkpoint = _read(path)
        if checkpoint is not None:
            return checkpoint
        report("note", text=f"checkpoint {path.name} is damaged; the one before it is taken")
    return None


def _read(path: Path) -> Checkpoint | None:
    """Return a checkpoint, or None if it is not whole."""
    try:
        arrays, facts = read_tensors(path)
    except StoreError:
        return None
    if facts.get("schema") != SCHEMA:
        raise StoreError(
            f"checkpoint {path} has schema {facts.get('schema')}, this release knows {SCHEMA}; "
            "resume with the release that wrote it, or start a new run"
        )
    if facts.pop("digest", None) != tensors_digest(arrays, facts):
        return None
    groups: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in ("head", "state", "clients", "best", "past")}
    for name, value in arrays.items():
        group, _, rest = name.partition("/")
        if group not in groups:
            raise StoreError(f"checkpoint {path} holds {name}, which this release does not know; start a new run")
        groups[group][rest] = value
    versions = groups["clients"].get("version", np.zeros(0, dtype=np.int64))
    counters = Counters(**facts["counters"])
    known = facts.get("best")
    best = None if known is None else Best(known["round"], known["loss"], groups["best"], known["last_round"])
    return Checkpoint(
        facts["round"], groups["head"], groups["state"], counters, facts["sizes"], versions, best, groups["past"]
    )
