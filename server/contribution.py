"""Heads without each client, what they get right, and the files that keep both."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedgraft.errors import TrainingError
from fedgraft.files import write_text
from fedgraft.metrics import PRIMARY, summarise
from fedgraft.tensor_files import save_tensors
from fedgraft.wire.protocol import SCHEMA
from fedgraft.wire.records import Arrays, expect, unpack
from fedgraft.wire.requests import LeaveOutReply
from server.roster import Call, Roster
from server.run_directory import CONTRIBUTION_FILE, HEADS_FILE
from server.sums import check_body, check_type
from strategies.base import Replies, Strategy

if TYPE_CHECKING:
    from server.course import Course


def combine_leave_out(
    calls: Sequence[Call], replies: Sequence[Message], roster: Roster, head: Arrays
) -> dict[str, NDArray[Any]]:
    """Check the replies to `query.leave_out` and return the heads, `(num_clients, *shape)`, in the roster's order.

    What the form does not make, such as a cosine head's scale, is that of `head`.

    Raises:
        WireError: names, shapes or types are others than they must be.
    """
    made = {name: value for name, value in head.items() if name != "scale"}
    parts: list[Arrays] = []
    for call, reply in zip(calls, replies, strict=True):
        what = f"reply to query.leave_out, shard {call.shard}, host {call.node}"
        body, groups = unpack(reply.content, LeaveOutReply, what)
        check_body(body, call, roster, what)
        shapes = {name: (len(call.clients), *np.shape(value)) for name, value in made.items()}
        expect(groups.get("heads"), shapes, what)
        check_type(groups["heads"], np.dtype(np.float32), what)
        parts.append(groups["heads"])
    clients = np.concatenate([call.clients for call in calls])
    order = np.argsort(clients)
    heads: dict[str, NDArray[Any]] = {
        name: np.concatenate([part[name] for part in parts])[order].astype(np.asarray(value).dtype)
        for name, value in made.items()
    }
    kept = {name: np.repeat(np.asarray(head[name])[None], len(clients), axis=0) for name in head if name not in made}
    return heads | kept


def leave_out_rows(
    strategy: Strategy, state: Arrays, head: Arrays, replies: Replies, clients: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the heads without each of some clients, `(num_clients, *shape)`, by leaving out its rows of `ClassSums`.

    Raises:
        TrainingError: without a client there is no head.
    """
    rows, heads = replies.statistics, []
    for client in clients.tolist():
        others = rows["client"] != client
        left = replace(replies, statistics={name: value[others] for name, value in rows.items()})
        try:
            heads.append(strategy.aggregate(state, head, (left,)).head)
        except ValueError as error:
            text = f"without client number {client + 1} there is no head: {error}"
            raise TrainingError(f"strategy {strategy.title}: {text}; set evaluation.contribution: false") from error
    return {name: np.stack([made[name] for made in heads]) for name in head}


def write_contributions(course: Course) -> None:
    """Write the heads without each client, and what each gets right on the central test part, if there is one."""
    heads, roster, path = course.adapter.without, course.roster, course.directory.path
    clients = course.adapter.cohort(course.round_number)
    names = [roster.names[client] for client in clients]
    facts = {"schema": SCHEMA, "clients": names, "round": course.round_number}
    save_tensors(path / HEADS_FILE, heads, facts)
    metric = PRIMARY[course.adapter.objective.task]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("client", "num_train", metric, f"{metric}_without", "effect"))
    with_all = _score(course, course.head, metric)
    for number, (name, count) in enumerate(zip(names, roster.num_train[clients].tolist(), strict=True)):
        without = _score(course, {part: value[number] for part, value in heads.items()}, metric)
        scores = () if with_all is None or without is None else (with_all, without, with_all - without)
        writer.writerow((name, count, *(f"{score:.9g}" for score in scores)))
    write_text(path / CONTRIBUTION_FILE, buffer.getvalue())


def _score(course: Course, head: Arrays, metric: str) -> float | None:
    if course.central is None:
        return None
    return float(summarise(course.central.evaluate(head), course.adapter.objective.task)[metric])
