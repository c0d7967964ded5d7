"""What the checks read, of a run at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.metrics import Sums, metric_rows
from fedgraft.models.losses import Task
from server.round_record import RoundRecord

if TYPE_CHECKING:
    from server.course import Course


@dataclass(frozen=True)
class Point:
    """The validation parts after a round."""

    round_number: int
    loss: float
    num_samples: int


@dataclass(frozen=True)
class Facts:
    """What the checks read.

    Attributes:
        task: what the targets are.
        label_names: of the outputs.
        client_names: of the roster.
        num_train: `(num_clients,)` training samples of each.
        validation: metric sums over the clients' validation parts, of the last head.
        central: the same over the central test part; empty without one.
        curve: the validation parts over rounds, ascending.
        num_validation: `(num_clients,)` validation samples, where they are known by client.
        scores: `(num_clients,)` each client's share of right answers by the last head, where known.
        personal_scores: the same by the clients' own heads.
        groups: samples and right answers of each group of the central test part, by name.
        trained: whether the head was trained by gradients, round after round, to the last round asked for.
        forgetting: of earlier tasks, where classes arrived task by task, and the average accuracy at the end; the curve
            is empty then, since it is over other samples in each task.
        own_heads: whether the strategy answers with the clients' own heads; then all that is said here of the head is
            said of these, and there is no central test part for them.
        begun: whether training began from a closed form.
    """

    task: Task
    label_names: Sequence[str]
    client_names: Sequence[str]
    num_train: NDArray[np.int64]
    validation: Sums = field(default_factory=dict)
    central: Sums = field(default_factory=dict)
    curve: Sequence[Point] = ()
    num_validation: NDArray[np.int64] | None = None
    scores: NDArray[np.float64] | None = None
    personal_scores: NDArray[np.float64] | None = None
    groups: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    trained: bool = True
    own_heads: bool = False
    forgetting: tuple[float, float] | None = None
    begun: bool = False


def facts_of(course: Course, groups: dict[str, tuple[int, float]], tasks: Mapping[str, Any] | None = None) -> Facts:
    """Return the facts of a run whose last head was evaluated.

    Args:
        course: the run.
        groups: samples and summed scores of each group of the central test part.
        tasks: what came of tasks one after another, as `server.lifelong` tells it; None: there were none.
    """
    record = course.adapter.record or RoundRecord(np.zeros(0, dtype=np.int64))
    own = course.adapter.strategy.answer == "own"
    group, before = "personal" if own else "validation", course.part.rounds_before  # of the last stage, if any
    curve, trained = _curve(metric_rows(course.directory.path), group, before)
    if course.head_round is not None:  # stopped early, with an earlier head: neither too long nor too short
        curve, trained = [point for point in curve if point.round_number <= course.head_round], False
    if tasks is not None:
        curve = []
    whole = len(record.clients) == len(course.roster.names)
    columns: dict[str, NDArray[np.float64]] = record.per_client if whole else {}
    counts = columns.get("num_validation")
    return Facts(
        course.adapter.objective.task,
        course.roster.label_names,
        course.roster.names,
        course.roster.num_train,
        record.personal if own else record.metrics,
        {} if own else course.central_sums or {},
        curve,
        None if counts is None else counts.astype(np.int64),
        columns.get("personal_score" if own else "validation_score"),
        None if own else columns.get("personal_score"),
        {} if own else groups,
        trained,
        own,
        _forgetting(tasks),
        course.part.init is not None,
    )


def _forgetting(tasks: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """Return forgetting and average accuracy, on the central test part where there is one."""
    measures = (tasks or {}).get("central", (tasks or {}).get("validation"))
    return (
        None if not measures or "forgetting" not in measures else (measures["forgetting"], measures["average_accuracy"])
    )


def _curve(rows: Sequence[Mapping[str, Any]], group: str, before: int) -> tuple[list[Point], bool]:
    """Return a group of rows over the rounds from `before` on, and whether any round after it trained heads."""
    points: dict[int, Point] = {}
    trained = False
    for row in rows:
        if row["round"] < before:
            continue
        if row["group"] == group:
            points[row["round"]] = Point(row["round"], float(row["loss"]), int(row["num_samples"]))
        trained |= row["group"] == "train" and "train_loss" in row and row["round"] > before
    return [points[number] for number in sorted(points)], trained
