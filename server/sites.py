"""Exchanges with the sites of a deployed run: some may be slow, away, or wrong, and the rest goes on.

In a simulation nobody may be missing, since the numbers would silently be others (`server.exchange`). Between
institutions a machine is restarted, a line fails, an answer is refused; then a round counts if enough sites answered,
and says who did not, by name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import Message
from flwr.serverapp import Grid

from fedgraft.errors import WireError, listed
from fedgraft.progress import report
from fedgraft.wire.frames import opened, sealed
from fedgraft.wire.records import record_bytes
from server.checkpoint import Counters
from server.exchange import HostError, copy_of, push

POLL_SECONDS = 0.2
"""Between two looks for replies."""

LOOK_SECONDS = 2.0
"""Between two looks for who is there."""

LOST = {3: "the request was lost", 4: "the answer was lost", 5: "it can't be reached", 8: "its process ended"}
"""Flower's codes of errors that may pass, with what they mean; the others come from the site itself."""


@dataclass
class Sites:
    """The sites of a deployed run.

    Attributes:
        expected: names of the sites that may join.
        quorum: how many of them suffice.
        timeout_seconds: how long an exchange waits for a site that is there and does not answer.
        resend_seconds: after how long without an answer a message is sent again, in case it was lost.
        absent_seconds: how long a site that can't be reached is waited for once enough others are there.
        rule: the setting that says how many suffice, for texts.
        names: the sites that have been seen, by Flower's node id.
    """

    expected: tuple[str, ...]
    quorum: int
    timeout_seconds: float
    resend_seconds: float
    absent_seconds: float = 90.0
    rule: str = "server.quorum"
    names: dict[int, str] = field(default_factory=dict)

    def look(self, grid: Grid) -> set[int]:
        """Return the nodes of the sites that are there now."""
        here = {int(node.node_id): str(node.name) for node in grid.get_nodes()}
        self.names |= {node: name or f"node {node}" for node, name in here.items()}
        return set(here)

    def named(self, nodes: Sequence[int] | set[int]) -> str:
        """Return sites by name."""
        return listed(sorted(self.names.get(node, f"node {node}") for node in nodes))

    def all_of(self, nodes: set[int], rule: str) -> Sites:
        """Return some of the sites, none of which may be missing.

        Args:
            nodes: theirs.
            rule: the setting that names them.
        """
        expected = tuple(self.names.get(node, f"node {node}") for node in sorted(nodes))
        return replace(self, expected=expected, quorum=len(nodes), rule=rule)

    def wait(self, grid: Grid) -> list[int]:
        """Return the nodes of the sites, once all are there or some while after enough are.

        Raises:
            HostError: too few came in time.
        """
        started, enough_since = time.monotonic(), None
        while len(here := self.look(grid)) < len(self.expected):
            now = time.monotonic()
            enough_since = (enough_since or now) if len(here) >= self.quorum else None
            if enough_since is not None and now - enough_since > self.absent_seconds:
                break
            if now - started > self.timeout_seconds:
                raise HostError(
                    f"{len(here)} of {len(self.expected)} sites came within {self.timeout_seconds:g} s "
                    f"({self.named(here) or 'none'}), {self.quorum} are needed ({self.rule})"
                )
            time.sleep(POLL_SECONDS)
        away = sorted(set(self.expected) - {self.names[node] for node in here})
        if away:
            report("note", text=f"the run begins without {listed(away)}: not there")
        return sorted(here)

    def check_quorum(self, nodes: set[int], phase: str, faults: Mapping[int, str]) -> None:
        """Refuse to go on with too few sites.

        Raises:
            HostError: names those that failed, and why.
        """
        if len(nodes) < self.quorum:
            why = "; ".join(f"{self.named([node])}: {text}" for node, text in sorted(faults.items()))
            raise HostError(
                f"{len(nodes)} of {len(self.names)} sites answered '{phase}', {self.quorum} are needed "
                f"({self.rule}). {why}"
            )


@dataclass
class _Asking:
    """One message and how it fares."""

    message: Message
    sent: float = 0.0
    lost_since: float | None = None
    fault: str = ""
    reply: Message | None = None
    failed: bool = False

    @property
    def node(self) -> int:
        return self.message.metadata.dst_node_id

    @property
    def settled(self) -> bool:
        return self.reply is not None or self.failed


def ask_sites(
    grid: Grid, sites: Sites, messages: Sequence[Message], counters: Counters, phase: str
) -> dict[int, Message]:
    """Send messages and return the replies by the places of the messages, without those of sites that failed.

    A message that is lost on the way, or whose site was restarted, is sent again; sites answer a repeated request with
    the same bits, and of several answers the first counts.

    Raises:
        HostError: fewer sites answered than are needed.
    """
    started, looked = time.monotonic(), 0.0
    clock = time.perf_counter()
    asked = [_Asking(message) for message in messages]
    places = _send(grid, asked, range(len(asked)), counters)
    here: set[int] = set()
    while not all(one.settled for one in asked):
        for reply in grid.pull_messages(list(places)):
            place = places.pop(reply.metadata.reply_to_message_id, None)
            if place is not None and not asked[place].settled:
                _note_reply(sites, asked[place], reply, phase)
        now = time.monotonic()
        if now - looked > LOOK_SECONDS:
            here, looked = sites.look(grid), now
        again = [place for place, one in enumerate(asked) if not one.settled and _wants_again(one, sites, here, now)]
        if again:
            places |= _send(grid, asked, again, counters)
        _give_up(asked, sites, now - started, now, phase)
        if not all(one.settled for one in asked):
            time.sleep(POLL_SECONDS)
    found = {place: one.reply for place, one in enumerate(asked) if one.reply is not None}
    faults = {one.node: one.fault for one in asked if one.failed}
    sites.check_quorum({asked[place].node for place in found} - set(faults), phase, faults)
    counters.bytes_up += sum(record_bytes(reply.content) for reply in found.values())
    counters.spend(phase, time.perf_counter() - clock)
    return found


def _send(grid: Grid, asked: Sequence[_Asking], places: Sequence[int], counters: Counters) -> dict[str, int]:
    """Send some messages, for the first time or again; return their ids, each with its place."""
    messages = [copy_of(asked[place].message, sealed(asked[place].message.content)) for place in places]
    now = time.monotonic()
    for place in places:
        asked[place].sent, asked[place].lost_since = now, None
    return push(grid, messages, places, counters)


def _note_reply(sites: Sites, one: _Asking, reply: Message, phase: str) -> None:
    if not reply.has_error():
        try:
            reply.content = opened(reply.content)
            one.reply = reply
        except WireError as error:
            one.fault, one.failed = str(error), True
            report("note", text=f"the answer of {sites.named([one.node])} to '{phase}' is refused: {error}")
        return
    name, code = sites.named([one.node]), reply.error.code
    said = (reply.error.reason or "").strip()
    if code in LOST:
        if not one.fault:
            report("note", text=f"{name} did not answer '{phase}': {LOST[code]}; it is asked again when it is back")
        one.fault = LOST[code]
        one.lost_since = one.lost_since or time.monotonic()
    else:
        one.fault, one.failed = said or f"error {code}", True
        report("note", text=f"{name} did not answer '{phase}': {one.fault}")


def _wants_again(one: _Asking, sites: Sites, here: set[int], now: float) -> bool:
    """Tell whether a message is to be sent again: it was lost and its site is back, or nothing was heard for long."""
    if one.lost_since is not None:
        return one.node in here and now - one.lost_since > LOOK_SECONDS
    if now - one.sent > sites.resend_seconds and one.node in here:
        report("note", text=f"nothing from {sites.named([one.node])} for {now - one.sent:.0f} s; it is asked again")
        return True
    return False


def _give_up(asked: Sequence[_Asking], sites: Sites, waited: float, now: float, phase: str) -> None:
    """Stop waiting for sites that are away, if enough others answered, and for all when the time is over."""
    enough = len({one.node for one in asked if one.reply is not None}) >= sites.quorum
    for one in asked:
        if one.settled:
            continue
        away = one.lost_since is not None and now - one.lost_since > sites.absent_seconds and enough
        if away or waited > sites.timeout_seconds:
            one.failed = True
            one.fault = one.fault or f"no answer within {waited:.0f} s (server.timeout_seconds)"
            if enough:
                report("note", text=f"'{phase}' goes on without {sites.named([one.node])}: {one.fault}")
