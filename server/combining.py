"""Checks the replies to one exchange of a round and adds them: in float64, in shard order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message

from fedgraft.errors import WireError
from fedgraft.metrics import add_sums
from fedgraft.models.losses import Task
from fedgraft.wire.records import Arrays, expect
from fedgraft.wire.requests import TrainReply
from server.contribution import combine_leave_out
from server.mixtures import combine_mixtures
from server.replies import Groups, in_order
from server.roster import Call, Roster
from server.round_record import clients_of, column
from server.sizes import check_weight, check_weights
from server.sums import combine_class_sums, combine_cross_validation, combine_statistics
from strategies.base import (
    ClassSums,
    CrossValidate,
    Exchange,
    LeaveOut,
    Mixtures,
    Replies,
    Request,
    Statistics,
)


def combine_updates(
    request: Request, calls: Sequence[Call], unpacked: Sequence[tuple[TrainReply, Groups]], head: Arrays, roster: Roster
) -> Replies:
    """Return the sum of what hosts added up over their clients.

    Args:
        request: what was asked for; names of sums and scalars, and the smoothing of those by nearness.
        calls: whom was asked.
        unpacked: the replies' bodies and arrays, in the order of the calls.
        head: the one that was sent; only its shapes count.
        roster: all clients.

    Raises:
        WireError: names or shapes are others than they must be, or weights more than they can be.
    """
    shapes = _shapes(head)
    sums: dict[str, list[Arrays]] = {name: [] for name in request.sums}
    scalars = dict.fromkeys(request.scalars, 0.0)
    for call, (body, groups) in zip(calls, unpacked, strict=True):
        what = _what(call)
        if set(body.scalars) != set(scalars):
            raise WireError(f"{what} carries scalars {sorted(body.scalars)}, expected {sorted(scalars)}")
        check_weights(body.scalars, int(roster.num_train[call.clients].sum()), request.smoothing, what)
        for name, value in body.scalars.items():
            scalars[name] += value
        for name, parts in sums.items():
            expect(groups.get(name), shapes, f"{what}: {name}")
            parts.append(groups[name])
    return Replies(
        sums={name: add_sums(list(parts)) for name, parts in sums.items()},
        scalars=scalars,
        num_clients=sum(len(call.clients) for call in calls),
        **_federation(roster),
    )


def stack_updates(
    calls: Sequence[Call], unpacked: Sequence[tuple[TrainReply, Groups]], head: Arrays, roster: Roster
) -> Replies:
    """Return every client's update, in the order of the roster; arguments as of `combine_updates`.

    Raises:
        WireError: names or shapes are others than they must be.
    """
    shapes = _shapes(head)
    for call, (_, groups) in zip(calls, unpacked, strict=True):
        what = _what(call)
        expect(groups.get("stack"), {n: (len(call.clients), *s) for n, s in shapes.items()}, what)
        expect(groups.get("weights"), {"weight": (len(call.clients),)}, what)
        for weight, num_samples in zip(groups["weights"]["weight"], roster.num_train[call.clients], strict=True):
            check_weight(float(weight), int(num_samples), what)
        if "train_loss" not in groups.get("clients", {}):
            raise WireError(f"{what} lacks clients.train_loss")
    groups_of_calls = [groups for _, groups in unpacked]
    order = np.argsort(clients_of(calls))
    weights = [groups["weights"]["weight"] for groups in groups_of_calls]
    return Replies(
        sums={},
        scalars={"weight": float(sum(weight.sum() for weight in weights))},
        num_clients=len(order),
        stack={n: np.concatenate([groups["stack"][n] for groups in groups_of_calls])[order] for n in shapes},
        weights=np.concatenate(weights)[order],
        train_losses=column(groups_of_calls, "train_loss")[order],
        **_federation(roster),
    )


@dataclass(frozen=True)
class Asked:
    """What an exchange about sums of features was about.

    Attributes:
        calls: whom was asked.
        roster: all clients.
        feature_dim: features a sample.
        task: what the targets are.
        head: the one that there is.
    """

    calls: Sequence[Call]
    roster: Roster
    feature_dim: int
    task: Task
    head: Arrays

    def combined(self, request: Exchange, messages: Sequence[Message], lambdas: tuple[float, ...] = ()) -> Replies:
        """Check the replies and return what they are together.

        Args:
            request: what was asked for.
            messages: the replies, in the order of the calls.
            lambdas: the penalties that `CrossValidate` tried, absolute.

        Raises:
            HostError: a reply is an error.
            WireError: a reply is not what was asked for.
        """
        calls, roster, dim = self.calls, self.roster, self.feature_dim
        ordered = in_order(calls, messages)
        num_samples = int(sum(roster.num_train[call.clients].sum() for call in calls))
        facts: dict[str, Any] = {"num_clients": len(clients_of(calls)), "num_samples": num_samples, "task": self.task}
        if isinstance(request, Statistics):
            facts["statistics"] = combine_statistics(calls, ordered, roster, dim, request.second_moment)
        elif isinstance(request, ClassSums):
            facts["statistics"] = combine_class_sums(calls, ordered, roster, dim)
        elif isinstance(request, Mixtures):
            asked = (request.components, request.covariance)
            facts["statistics"] = combine_mixtures(calls, ordered, roster, dim, *asked)
        elif isinstance(request, LeaveOut):
            facts["stack"] = combine_leave_out(calls, ordered, roster, self.head)
        elif isinstance(request, CrossValidate):
            tried = combine_cross_validation(calls, ordered, roster, lambdas)
            facts |= {"penalties": np.array(tried.lambdas), "scores": tried.scores, "num_samples": tried.num_samples}
        return Replies(sums={}, scalars={}, **facts)


def _shapes(head: Arrays) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(np.shape(value)) for name, value in head.items()}


def _what(call: Call) -> str:
    return f"reply to train, shard {call.shard}"


def _federation(roster: Roster) -> dict[str, Any]:
    return {"federation_clients": len(roster.names), "federation_weight": float(roster.num_train.sum())}
