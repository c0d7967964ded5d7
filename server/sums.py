"""Adds up what hosts answer to `query.statistics` and `query.cross_validate`: in float64, in shard order.

Nothing is believed: names, shapes and types, numbers against the roster, and sums against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedgraft.alignment.moments import MomentKind, check_moment_sums, moments_shapes
from fedgraft.closed_form import best_lambda
from fedgraft.errors import WireError
from fedgraft.metrics import add_sums
from fedgraft.models.losses import Task
from fedgraft.wire.records import Arrays, expect, unpack
from fedgraft.wire.requests import (
    ClassSumsReply,
    ClustersReply,
    CrossValidateReply,
    LeaveOutReply,
    MixturesReply,
    MomentsReply,
    StatisticsReply,
)
from fedgraft.wire.statistics import SUMS_TOLERANCE, SecondMoment, class_rows_shapes, statistics_shapes
from server.roster import Call, Roster

SumsReply = (
    MomentsReply | StatisticsReply | ClassSumsReply | ClustersReply | MixturesReply | CrossValidateReply | LeaveOutReply
)
"""Bodies that say of how many clients and samples a reply is."""


@dataclass(frozen=True)
class CrossValidated:
    """What leave-one-client-out gave.

    Attributes:
        lambdas: penalties.
        scores: `(num_lambdas,)`; right answers for classes, right decisions over all labels, or the negative sum of
            squared errors: more is better.
        counts: the sums as they came, `correct` or `squared_error`.
        num_samples: samples that were predicted.
    """

    lambdas: tuple[float, ...]
    scores: NDArray[np.float64]
    counts: Mapping[str, NDArray[np.float64]]
    num_samples: int

    @property
    def best(self) -> float:
        """The lambda of the highest score; of equal ones the largest."""
        return best_lambda(self.lambdas, self.scores)


def combine_moments(
    calls: Sequence[Call], replies: Sequence[Message], roster: Roster, feature_dim: int, moment: MomentKind
) -> dict[str, NDArray[np.float64]]:
    """Check the replies to `query.moments` and return their sum, in the order of the calls.

    Raises:
        WireError: names, shapes, types or counts are others than they must be, or sums contradict each other.
    """
    shapes = moments_shapes(feature_dim, moment)
    total: dict[str, NDArray[np.float64]] = {name: np.zeros(shape) for name, shape in shapes.items()}
    for call, reply in zip(calls, replies, strict=True):
        what = f"reply to query.moments, shard {call.shard}, host {call.node}"
        body, groups = unpack(reply.content, MomentsReply, what)
        num_samples = check_body(body, call, roster.with_unlabelled(), what)
        expect(groups.get("sums"), shapes, what)
        sums = groups["sums"]
        check_type(sums, np.dtype(np.float64), what)
        check_moment_sums(sums, num_samples, what)
        for name, value in total.items():
            value += sums[name]
    return total


def combine_statistics(
    calls: Sequence[Call],
    replies: Sequence[Message],
    roster: Roster,
    feature_dim: int,
    second_moment: SecondMoment,
    radial_moments: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Check the replies to `query.statistics` and return their sum, in the order of the calls.

    Raises:
        WireError: names, shapes, types or counts are others than they must be, or sums contradict each other.
    """
    shapes = statistics_shapes(len(roster.label_names), feature_dim, second_moment, roster.task, radial_moments)
    total: dict[str, NDArray[np.float64]] = {name: np.zeros(shape) for name, shape in shapes.items()}
    for call, reply in zip(calls, replies, strict=True):
        what = f"reply to query.statistics, shard {call.shard}, host {call.node}"
        body, groups = unpack(reply.content, StatisticsReply, what)
        num_samples = check_body(body, call, roster, what)
        sums = groups.get("sums")
        expect(sums, shapes, what)
        sums = sums or {}
        check_type(sums, np.dtype(np.float64), what)
        _check_sums(sums, roster.task, num_samples, second_moment, what)
        for name, value in total.items():
            value += sums[name]
    return total


def combine_class_sums(
    calls: Sequence[Call], replies: Sequence[Message], roster: Roster, feature_dim: int
) -> dict[str, NDArray[Any]]:
    """Check the replies to `query.class_sums` and return their rows by client, then class, whatever the hosts.

    `client` becomes the position in the roster.

    Raises:
        WireError: names, shapes, types or counts are others than they must be.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    for call, reply in zip(calls, replies, strict=True):
        what = f"reply to query.class_sums, shard {call.shard}, host {call.node}"
        body, groups = unpack(reply.content, ClassSumsReply, what)
        check_body(body, call, roster, what)
        rows = groups.get("rows", {})
        number = len(rows["client"]) if "client" in rows and rows["client"].ndim == 1 else 0
        expect(groups.get("rows"), class_rows_shapes(number, feature_dim), what)
        for name, value in rows.items():
            check_type({name: value}, np.dtype(np.float64 if name == "class_sum" else np.int64), what)
        _check_class_rows(rows, roster.num_train[call.clients], len(roster.label_names), what)
        parts.append({**rows, "client": call.clients[rows["client"]]})
    whole = {name: np.concatenate([part[name] for part in parts]) for name in class_rows_shapes(0, 0)}
    order = np.lexsort((whole["class"], whole["client"]))
    return {name: value[order] for name, value in whole.items()}


def _check_class_rows(rows: Arrays, num_train: NDArray[np.int64], num_classes: int, what: str) -> None:
    """Refuse rows that clients with these numbers of samples, `(num_clients,)`, can't have."""
    for name, end in (("client", len(num_train)), ("class", num_classes)):
        if len(rows[name]) and (rows[name].min() < 0 or rows[name].max() >= end):
            raise WireError(
                f"{what}: {name} goes from {rows[name].min()} to {rows[name].max()}; expected 0 to {end - 1}"
            )
    place = rows["client"] * num_classes + rows["class"]
    if (np.diff(place) <= 0).any():
        raise WireError(f"{what}: its rows are not ordered by client and class, or one comes twice")
    counts = rows["count"]
    sums = np.zeros(len(num_train), dtype=np.int64)
    np.add.at(sums, rows["client"], counts)
    if (counts < 1).any() or (sums != num_train).any():
        wrong = np.count_nonzero(sums != num_train)
        raise WireError(
            f"{what}: counts must be whole numbers from 1 that add up to each client's training samples; "
            f"those of {wrong} of {len(num_train)} clients don't, the smallest is {counts.min(initial=1)}"
        )


def combine_cross_validation(
    calls: Sequence[Call], replies: Sequence[Message], roster: Roster, lambdas: tuple[float, ...]
) -> CrossValidated:
    """Check the replies to `query.cross_validate` and return their sum, in the order of the calls.

    Raises:
        WireError: names, shapes, types or counts are others than they must be.
    """
    num_outputs, task = len(roster.label_names), roster.task
    shapes: dict[str, tuple[int, ...]] = {"correct": (len(lambdas),)}
    if task == "real":
        shapes = {"squared_error": (len(lambdas), num_outputs)}
    answers = num_outputs if task == "labels" else 1
    parts: list[Mapping[str, NDArray[Any]]] = [{name: np.zeros(shape) for name, shape in shapes.items()}]
    total_samples = 0
    for call, reply in zip(calls, replies, strict=True):
        what = f"reply to query.cross_validate, shard {call.shard}, host {call.node}"
        body, groups = unpack(reply.content, CrossValidateReply, what)
        num_samples = check_body(body, call, roster, what)
        counts = groups.get("counts")
        expect(counts, shapes, what)
        counts = counts or {}
        check_type(counts, np.dtype(np.float64 if task == "real" else np.int64), what)
        for name, value in counts.items():
            most = np.inf if task == "real" else num_samples * answers
            if (value < 0).any() or (value > most).any():
                raise WireError(f"{what}: {name} goes from {value.min():g} to {value.max():g}; expected 0 to {most:g}")
        parts.append(counts)
        total_samples += num_samples
    total = add_sums(parts)
    scores = -total["squared_error"].sum(axis=1) if task == "real" else total["correct"]
    return CrossValidated(lambdas, scores, total, total_samples)


def check_body(body: SumsReply, call: Call, roster: Roster, what: str) -> int:
    """Refuse a reply for another shard, or about others than the clients that were named; return their samples."""
    if body.shard != call.shard:
        raise WireError(f"{what} says that it is for shard {body.shard}; a stale reply")
    num_samples = int(roster.num_train[call.clients].sum())
    if (body.num_clients, body.num_samples) != (len(call.clients), num_samples):
        raise WireError(
            f"{what} speaks of {body.num_samples:,} samples of {body.num_clients:,} clients; "
            f"asked for {num_samples:,} of {len(call.clients):,}: has the host's data changed since it was described?"
        )
    return num_samples


def check_type(arrays: Arrays, dtype: np.dtype[Any], what: str) -> None:
    """Refuse arrays of another type."""
    for name, value in arrays.items():
        if value.dtype != dtype:
            raise WireError(f"{what}: {name} is of type {value.dtype}, expected {dtype}")


def _check_sums(sums: Arrays, task: Task, num_samples: int, second_moment: SecondMoment, what: str) -> None:
    """Refuse sums that no samples of that number can have."""
    counts = np.atleast_1d(sums["class_count" if task == "classes" else "count"])
    if (counts < 0).any() or (counts != np.rint(counts)).any() or counts.sum() != num_samples:
        raise WireError(f"{what}: its counts add up to {counts.sum():g}, expected whole numbers for {num_samples:,}")
    if task == "labels":
        positives = sums["target_sum"]
        if (positives < 0).any() or (positives > num_samples).any() or (positives != sums["target_square"]).any():
            raise WireError(f"{what}: target_sum is no count of labels among {num_samples:,} samples")
    if "fourth_moment" in sums:
        _check_radial_moments(sums, num_samples, what)
    if second_moment == "none":
        return
    moment = sums.get("second_moment", np.zeros((0, 0)))
    squares = sums["square_sum"] if second_moment == "diagonal" else np.diagonal(moment, axis1=-2, axis2=-1)
    by_class = squares.ndim == 2
    first = sums["class_sum"] if task == "classes" else sums["feature_sum"]
    first, number = (first, counts[:, None]) if by_class or task != "classes" else (first.sum(axis=0), counts.sum())
    # Cauchy and Schwarz: the square of a sum is at most the number of terms times the sum of squares
    if (np.square(first) > number * squares * (1 + SUMS_TOLERANCE)).any():
        raise WireError(f"{what}: sums of squares are smaller than the sums of features allow; no samples have such")
    difference = np.abs(moment - np.swapaxes(moment, -2, -1)).max(initial=0.0)
    if difference > SUMS_TOLERANCE * np.abs(moment).max(initial=0.0):
        raise WireError(f"{what}: second_moment is not symmetric (largest difference {difference:g})")


def _check_radial_moments(sums: Arrays, num_samples: int, what: str) -> None:
    """Refuse sums of powers of lengths that no samples can have: Cauchy and Schwarz, over samples."""
    fourth, third = float(sums["fourth_moment"]), float(np.square(sums["third_moment"]).sum())
    most = np.sqrt(max(fourth, 0.0) * num_samples)  # what the sum of squared lengths can be
    moment = sums.get("second_moment")
    squares = most if moment is None else float(np.diagonal(moment, axis1=-2, axis2=-1).sum())
    slack = 1 + SUMS_TOLERANCE
    if fourth < 0 or squares > most * slack or third > fourth * squares * slack:
        raise WireError(f"{what}: fourth_moment is smaller than the other sums allow; no samples have such")
