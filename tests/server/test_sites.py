"""Exchanges with sites: what is lost is sent again, what is wrong is named, and enough sites suffice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from fedgraft.progress import listening
from fedgraft.simulation.flower_identity import claim_identity, stamp
from fedgraft.simulation.inline import InlineGrid
from fedgraft.wire.records import pack
from fedgraft.wire.requests import DescribeRequest
from server import sites as sites_module
from server.checkpoint import Counters
from server.exchange import HostError
from server.sites import Sites, ask_sites

NAMES = {2: "clinic-1", 3: "clinic-2", 4: "clinic-3"}
Answer = Callable[[Message, int], Message | None]
"""What a site makes of a message; the number says how often it was asked before. None: silence."""


class Sending(InlineGrid):
    """A grid whose sites answer as told; the rest of it, messages and ids, is Flower's and the inline runtime's own."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        super().__init__(None, {})  # type: ignore[arg-type]  # no ClientApp: the sites are scripted
        self.answers, self.asked = answers, dict.fromkeys(answers, 0)
        self.away: set[int] = set()
        self.waiting: dict[str, Message] = {}

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=NAMES[node]) for node in self.answers if node not in self.away]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identifiers = []
        for message in messages:
            node = message.metadata.dst_node_id
            identifiers.append(stamp(message))
            reply = self.answers[node](message, self.asked[node])
            self.asked[node] += 1
            if reply is not None:
                stamp(reply)
                self.waiting[reply.metadata.reply_to_message_id] = reply
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self.waiting.pop(identifier) for identifier in list(message_ids) if identifier in self.waiting]


def good(message: Message, _: int) -> Message:
    return Message(RecordDict(), reply_to=message)


def failing(code: int, text: str) -> Answer:
    return lambda message, _: Message(Error(code, text), reply_to=message)


def first(answer: Answer) -> Answer:
    """Answer so the first time, and well afterwards."""
    return lambda message, before: good(message, before) if before else answer(message, before)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    claim_identity(1)
    for name, seconds in (("POLL_SECONDS", 0.01), ("LOOK_SECONDS", 0.02)):
        monkeypatch.setattr(sites_module, name, seconds)
    return None


def asked(grid: Sending, timeout: float = 30.0, resend: float = 30.0, quorum: int = 2) -> tuple[set[int], list[str]]:
    """Return which nodes answered, and the notes."""
    sites = Sites(tuple(NAMES.values()), quorum, timeout, resend, absent_seconds=0.2)
    sites.look(grid)
    content = pack(DescribeRequest(run_id="r"), {"head": {"weight": np.zeros(2)}})
    messages = [Message(content, dst_node_id=node, message_type="train") for node in grid.answers]
    notes: list[str] = []

    def event(given: Any) -> None:
        notes.append(given["text"])

    with listening(event):
        found = ask_sites(grid, sites, messages, Counters(), "train")
    return {messages[place].metadata.dst_node_id for place in found}, notes


def test_all_answer() -> None:
    assert asked(Sending(dict.fromkeys(NAMES, good))) == ({2, 3, 4}, [])


def test_a_message_that_was_lost_without_a_word_is_sent_again() -> None:
    grid = Sending({2: good, 3: first(lambda *_: None), 4: good})
    found, notes = asked(grid, resend=0.1)
    assert found == {2, 3, 4}
    assert grid.asked == {2: 1, 3: 2, 4: 1}
    assert len(notes) == 1
    assert notes[0].startswith("nothing from clinic-2 for")


@pytest.mark.parametrize("code", [3, 4, 5, 8])
def test_a_site_that_was_away_is_asked_again_when_it_is_back(code: int) -> None:
    grid = Sending({2: good, 3: good, 4: first(failing(code, "away"))})
    found, notes = asked(grid)
    assert found == {2, 3, 4}
    assert grid.asked[4] == 2
    assert len(notes) == 1
    assert "clinic-3 did not answer 'train'" in notes[0]


def test_a_site_that_stays_away_is_left_out_once_enough_have_answered() -> None:
    grid = Sending({2: good, 3: good, 4: failing(5, "gone")})

    def leave(message: Message, before: int) -> Message:
        grid.away.add(4)
        return failing(5, "gone")(message, before)

    grid.answers[4] = leave
    started = time.monotonic()
    found, notes = asked(grid)
    assert found == {2, 3}
    assert time.monotonic() - started < 10  # far before the time-out
    assert grid.asked[4] == 1  # it is not asked while it is away
    assert notes[-1] == "'train' goes on without clinic-3: it can't be reached"


def test_a_slow_site_is_left_out_at_the_deadline() -> None:
    found, notes = asked(Sending({2: good, 3: good, 4: lambda *_: None}), timeout=0.3)
    assert found == {2, 3}
    assert "'train' goes on without clinic-3: no answer within" in notes[-1]


def test_a_refusal_is_not_asked_again_and_is_named() -> None:
    grid = Sending({2: good, 3: failing(2, "clinic-2 refuses: not here"), 4: good})
    found, notes = asked(grid)
    assert found == {2, 4}
    assert grid.asked[3] == 1
    assert notes == ["clinic-2 did not answer 'train': clinic-2 refuses: not here"]


def test_too_few_answers_end_the_run_with_all_reasons() -> None:
    grid = Sending({2: good, 3: failing(2, "no data"), 4: failing(7, "knows no bundle")})
    with pytest.raises(
        HostError, match=r"1 of 3 sites answered 'train', 2 are needed .*clinic-2: no data; clinic-3: knows"
    ):
        asked(grid)


def test_an_answer_that_comes_twice_counts_once() -> None:
    """The first sending is answered late, after the second was sent and answered too."""
    grid = Sending({2: good, 3: good, 4: lambda *_: None})
    kept: list[Message] = []

    def late(message: Message, before: int) -> Message | None:
        if before == 0:
            kept.append(message)
            return None
        early = good(kept[0], 0)
        stamp(early)
        grid.waiting[kept[0].metadata.message_id] = early
        return good(message, before)

    grid.answers[4] = late
    found, _ = asked(grid, resend=0.1)
    assert found == {2, 3, 4}
