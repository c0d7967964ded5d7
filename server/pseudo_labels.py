"""Pseudo-labels as the server sees them: when clients give some, how many they gave, and what it tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgraft.errors import Fault, ScenarioError, WireError
from fedgraft.evaluation import Objective
from fedgraft.metrics import Sums, add_sums, metric_rows
from fedgraft.wire.records import Arrays, expect
from server.roster import Call, Roster
from server.settings import ServerPart

if TYPE_CHECKING:
    from server.course import Course

PSEUDO_LABELS = "pseudo_labels"
"""The group of a reply's arrays that says how many samples were labelled, and of metrics that says it of a round."""


def check_pseudo_labels(part: ServerPart, objective: Objective, roster: Roster) -> None:
    """Refuse pseudo-labels where no head could give some, or no sample wants one.

    Raises:
        ScenarioError: the targets are not classes, the loss is not softmax, or all samples have labels.
    """
    if part.pseudo_labels is None:
        return
    text = ""
    if objective.task != "classes" or objective.loss.name != "softmax":
        came = f"the targets are {objective.task} and the loss is {objective.loss.name}"
        text = f"needs one class a sample and the softmax loss; {came}; set it to null"
    elif not roster.num_unlabelled.sum():
        text = "came, but every training sample has a label; set data.unlabelled for a simulation, or this to null"
    elif not roster.num_train.sum():
        text = "came, but no training sample has a label, so there is nothing to begin with; label a few"
    if text:
        raise ScenarioError(part.name, [Fault(f"{part.place}pseudo_labels", text)])


def check_counts(calls: Sequence[Call], found: Sequence[Arrays | None], roster: Roster) -> None:
    """Refuse replies that do not say, or can't say so, how many samples each client labelled.

    Args:
        calls: whom was asked.
        found: what the replies say, in the order of the calls.
        roster: all clients.

    Raises:
        WireError: the counts are missing, or can't be.
    """
    for call, counts in zip(calls, found, strict=True):
        what = f"pseudo-labels of shard {call.shard}, host {call.node}"
        expect(counts, dict.fromkeys(("count", "known", "right"), (len(call.clients),)), what, np.dtype(np.int64))
        told = counts or {}
        order = (told["right"], told["known"], told["count"], roster.num_unlabelled[call.clients])
        if (order[0] < 0).any() or any((more < less).any() for less, more in pairwise(order)):
            raise WireError(f"{what}: expected 0 <= right <= known <= count <= samples without labels, of each client")


def with_labelled(roster: Roster, calls: Sequence[Call], counts: Sequence[Arrays]) -> Roster:
    """Return the roster with the samples that clients labelled themselves among their training samples."""
    num_train = roster.num_train.copy()
    for call, found in zip(calls, counts, strict=True):
        num_train[call.clients] += found["count"]
    return replace(roster, num_train=num_train)


def sums_of(roster: Roster, calls: Sequence[Call], counts: Sequence[Arrays]) -> Sums:
    """Return, over the clients of an exchange, samples without labels, and how many got one, known and right."""
    told = [{name: np.array(float(values.sum())) for name, values in found.items()} for found in counts]
    total = add_sums(list(told)) if told else {}
    return {**total, "unlabelled": np.array(float(sum(roster.num_unlabelled[call.clients].sum() for call in calls)))}


def write_pseudo_labels(course: Course) -> None:
    """Write a row about the pseudo-labels of the round that has ended, if it had some."""
    record = course.adapter.record
    sums = {} if record is None else record.pseudo_labels
    if not sums:
        return
    unlabelled, count, known = (int(sums[name]) for name in ("unlabelled", "count", "known"))
    values: dict[str, Any] = {"unlabelled": unlabelled, "labelled": count}
    values |= {"share": count / unlabelled} if unlabelled else {}
    values |= {"accuracy": float(sums["right"]) / known} if known else {}
    course.directory.row(course.round_number, PSEUDO_LABELS, values)


def pseudo_labels_of(course: Course) -> dict[str, Any]:
    """Return what the last round with pseudo-labels said of them; nothing if there was none."""
    rows = [row for row in metric_rows(course.directory.path) if row["group"] == PSEUDO_LABELS]
    if not rows:
        return {}
    names = ("round", "unlabelled", "labelled", "share", "accuracy")
    return {PSEUDO_LABELS: {name: rows[-1][name] for name in names if name in rows[-1]}}


def pseudo_label_rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the samples without labels and what became of them, as a row for people; none without them."""
    rows = []
    if summary.get("num_unlabelled"):
        rows.append(("without labels", f"{summary['num_unlabelled']:,} more training samples"))
    found = summary.get(PSEUDO_LABELS)
    if found is not None:
        text = f"{found['labelled']:,} of {found['unlabelled']:,} in round {found['round']}"
        right = f", {100 * found['accuracy']:.1f} % of them rightly" if "accuracy" in found else ""
        rows.append(("pseudo-labelled", text + right))
    return rows
