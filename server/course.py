"""A run in progress, and its checkpoints: to save one, and to go back to one."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from fedgraft.metrics import Sums
from fedgraft.progress import report
from fedgraft.stages import stage_of
from fedgraft.wire.records import Arrays
from server.adapter import PackedStrategy
from server.checkpoint import Best, Checkpoint, Counters, last_checkpoint, save_checkpoint
from server.evaluation import CentralTest
from server.exchange import StateLostError
from server.flower_strategy import runnable
from server.roster import Roster
from server.run_directory import RunDirectory
from server.settings import ServerPart
from server.sites import Sites

MOST_GOINGS_BACK = 3
"""How often a run goes back to a checkpoint without coming further than it ever was."""


@dataclass
class Course:
    """A run in progress.

    Attributes:
        parts: what is read of each stage; one of a run of one piece.
        part: the stage that the run is in.
    """

    parts: tuple[ServerPart, ...]
    part: ServerPart
    directory: RunDirectory
    grid: Grid
    roster: Roster
    adapter: PackedStrategy
    central: CentralTest | None
    counters: Counters
    head: Arrays
    threads: int
    sites: Sites | None = None
    round_number: int = 0
    furthest: int = 0
    goings_back: int = 0
    central_sums: Sums | None = None
    best: Best | None = None
    head_round: int | None = None
    """The round that the head came out of, where that is not the last one."""
    pictures: bool = True
    label_shift: dict[str, Any] = field(default_factory=dict)
    """What the last head reaches with other label priors."""

    @property
    def stage(self) -> int:
        """Which stage the run is in, from 0."""
        return self.parts.index(self.part)

    def of(self, round_number: int) -> int:
        """Return which stage a round is of."""
        return stage_of([part.server.rounds for part in self.parts], round_number)

    @property
    def number_of_head(self) -> int:
        """The round that the head came out of: the last, or the best."""
        return self.round_number if self.head_round is None else self.head_round

    @property
    def cut_of_head(self) -> str | None:
        """The cut past which blocks came with the head; None: it came alone."""
        number = self.number_of_head
        return self.parts[self.of(number)].cut_at(number)

    def enter(self, stage: int) -> None:
        """Be in a stage: with its strategy and its settings, at its beginning."""
        self.part = self.parts[stage]
        self.adapter = self.adapter.in_stage(runnable(self.part.strategy), self.part)
        if self.central is not None:
            self.central.unfreeze = self.part.unfreeze


def save(course: Course) -> None:
    """Write a checkpoint; the hosts have written the client state that it names."""
    started = time.perf_counter()
    if course.round_number > course.furthest:
        course.furthest, course.goings_back = course.round_number, 0
    adapter = course.adapter
    checkpoint = Checkpoint(
        course.round_number,
        course.head,
        adapter.state or {},
        course.counters,
        course.directory.sizes(),
        adapter.versions if adapter.versions.any() else np.zeros(0, dtype=np.int64),
        course.best,
        adapter.past,
    )
    save_checkpoint(course.directory.path / "checkpoints", checkpoint)
    course.counters.spend("checkpoint", time.perf_counter() - started)


def go_back(course: Course, lost: StateLostError) -> None:
    """Go on from the last checkpoint, whose client state lies in files; from the one before if it is lost too.

    Raises:
        StateLostError: `MOST_GOINGS_BACK` times this did not bring the run further, or no checkpoint is left.
    """
    course.goings_back += 1
    again = course.goings_back > 1
    before = course.round_number if again else None
    checkpoint = last_checkpoint(course.directory.path / "checkpoints", before)
    if checkpoint is None or course.goings_back > MOST_GOINGS_BACK:
        raise StateLostError(
            f"{lost}, and going back to a checkpoint did not help {course.goings_back - 1} times; look whether hosts "
            f"are killed for want of memory and whether client-state/ of the run is damaged, or start a new run"
        ) from lost
    course.directory.truncate(checkpoint.sizes)
    course.head, course.round_number, course.central_sums = checkpoint.head, checkpoint.round_number, None
    course.best, course.head_round = checkpoint.best, None
    if course.of(checkpoint.round_number) != course.stage:
        course.enter(course.of(checkpoint.round_number))
    course.adapter.go_back(checkpoint.state, checkpoint.versions, checkpoint.past)
    report("note", text=f"{lost}; the run goes back to the end of round {checkpoint.round_number}")
