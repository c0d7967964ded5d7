"""One exchange: replies in the order of the messages, bytes counted, failures named."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from flwr.app import Message
from hand_made_hosts import description, grid_of, roster_of

from fedgraft.simulation.inline import InlineGrid
from fedgraft.wire.records import pack
from fedgraft.wire.requests import DescribeRequest, TrainRequest
from server.checkpoint import Counters
from server.exchange import HostError, exchange


class Late(InlineGrid):
    """A grid that hands out the replies one a look, the last one first; some never."""

    silent: frozenset[int] = frozenset()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = [
            identifier
            for identifier in self._replies
            if identifier in set(message_ids) and self._replies[identifier].metadata.src_node_id not in self.silent
        ]
        return [self._replies.pop(wanted[-1])] if wanted else []


def late_grid(num_hosts: int) -> Late:
    grid = grid_of({2 + number: description([f"client-{number}"]) for number in range(num_hosts)})
    return Late(grid._app, grid._contexts)


def messages_to(nodes: list[int]) -> list[Message]:
    return [
        Message(pack(DescribeRequest(run_id="run-0001")), dst_node_id=node, message_type="query.describe")
        for node in nodes
    ]


def test_replies_come_in_the_order_of_the_messages() -> None:
    replies = exchange(late_grid(3), messages_to([4, 2, 3]), Counters(), "describe", 5.0)
    assert [reply.metadata.src_node_id for reply in replies] == [4, 2, 3]


def test_silent_hosts_are_named() -> None:
    grid = late_grid(3)
    grid.silent = frozenset({2, 4})
    with pytest.raises(
        HostError, match=r"2 of 3 messages 'describe' were not answered within 0\.3 s, by the hosts 2, 4;"
    ):
        exchange(grid, messages_to([2, 3, 4]), Counters(), "describe", 0.3)


def test_error_replies_are_named_with_their_reason() -> None:
    """The host's own words reach the user, and which host said them."""
    grid = grid_of({2: description(["a"])})
    request = TrainRequest(run_id="run-0001", weights_digest="", round_number=1, shard=0)
    message = Message(pack(request, {"clients": {"index": np.zeros(1)}}), dst_node_id=2, message_type="train")
    with pytest.raises(HostError, match="host 2 failed in 'train': this host does not train"):
        exchange(grid, [message], Counters(), "train", 5.0)


def test_bytes_are_those_of_the_payload() -> None:
    """A NumPy array of n bytes travels as n + 128 (the .npy header); texts count as they are."""
    counters = Counters()
    body = DescribeRequest(run_id="run-0001")
    message = Message(pack(body), dst_node_id=2, message_type="query.describe")
    [reply] = exchange(grid_of({2: description(["ab", "c"])}), [message], counters, "describe", 5.0)
    assert counters.bytes_down == len(body.model_dump_json())
    text = reply.content.config_records["body"]["json"]
    assert isinstance(text, str)
    arrays = (128 + 4) + (128 + 16) + (128 + 16)  # "ab\nc", and two columns of two int64
    assert counters.bytes_up == len(text) + arrays
    assert set(counters.seconds) == {"describe"}


def test_roll_call_counts_too() -> None:
    assert roster_of(late_grid(2)).names == ("client-0", "client-1")
