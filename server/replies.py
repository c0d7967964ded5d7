"""Replies to one exchange: put in the order of the calls, and refused if they are not what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedgraft.errors import WireError
from fedgraft.wire.records import Arrays, expect, unpack
from fedgraft.wire.requests import EvaluateReply, TrainReply
from server.exchange import HostError
from server.roster import Call

AnyReply = TypeVar("AnyReply", TrainReply, EvaluateReply)
Groups = dict[str, dict[str, NDArray[Any]]]


def unpacked_replies(
    calls: Sequence[Call], round_number: int, replies: Sequence[Message], model: type[AnyReply]
) -> list[tuple[AnyReply, Groups]]:
    """Return the bodies and arrays of the replies in the order of the calls, in whatever order they came.

    Of two replies for the same clients and round the first counts: what is sent twice is not added twice.

    Raises:
        HostError: a reply is an error.
        WireError: a reply is missing, of another round, or speaks of other clients than it was asked for.
    """
    waiting = {(call.shard, call.node): call for call in calls}
    found: dict[tuple[int, int], tuple[AnyReply, Groups]] = {}
    for reply in replies:
        node = reply.metadata.src_node_id
        if reply.has_error():
            raise HostError(f"host {node} failed in round {round_number}: {reply.error.reason}")
        what = f"{model.__name__} of host {node}"
        body, groups = unpack(reply.content, model, what)
        if body.round_number != round_number:
            raise WireError(f"{what} is for round {body.round_number}, expected {round_number}; a stale reply")
        if (body.shard, node) in found:
            continue
        call = waiting.pop((body.shard, node), None)
        if call is None:
            raise WireError(f"{what} is for shard {body.shard}, which it was not asked for")
        _check_clients(call, body.num_clients, groups.get("clients", {}), what)
        found[call.shard, node] = (body, groups)
    if waiting:
        raise WireError(f"{len(found)} replies came to {len(calls)} messages of round {round_number}")
    return [found[call.shard, call.node] for call in calls]


def in_order(calls: Sequence[Call], replies: Sequence[Message]) -> list[Message]:
    """Return replies in the order of the calls, as an exchange gives them; the bodies say which shard they are for.

    Raises:
        HostError: a reply is an error.
        WireError: a reply is missing, surplus, or of another host.
    """
    if len(replies) != len(calls):
        raise WireError(f"{len(replies)} replies came to {len(calls)} messages")
    for call, reply in zip(calls, replies, strict=True):
        node = reply.metadata.src_node_id
        if reply.has_error():
            raise HostError(f"host {node} failed: {reply.error.reason}")
        if node != call.node:
            raise WireError(f"a reply for shard {call.shard} came from host {node}, asked was host {call.node}")
    return list(replies)


def _check_clients(call: Call, num_clients: int, columns: Arrays, what: str) -> None:
    if num_clients != len(call.clients):
        raise WireError(f"{what} speaks of {num_clients} clients, asked for were {len(call.clients)}")
    expect(columns, dict.fromkeys(columns, (len(call.clients),)), f"{what}: clients")
    if not np.array_equal(columns.get("index", call.index), call.index):
        raise WireError(f"{what} speaks of other clients than it was asked for")
