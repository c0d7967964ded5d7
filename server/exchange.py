"""One exchange with the hosts: messages out, replies back, bytes counted, failures named."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedgraft.errors import FedGraftError, listed
from fedgraft.progress import report
from fedgraft.wire.records import record_bytes
from server.checkpoint import Counters

POLL_SECONDS = 0.05
"""Between two looks for replies; Flower's own loop waits 3 s, which is most of a round."""


class HostError(FedGraftError):
    """A host answered with an error, or did not answer in time."""


class StateLostError(FedGraftError):
    """Hosts lack the version of their clients' state that a round starts from; the run can go back and repeat it."""


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    counters: Counters,
    phase: str,
    timeout_seconds: float,
    retries: int = 0,
) -> list[Message]:
    """Send messages and return their replies, in the order of the messages.

    A message that is not answered in time is sent again. Of the answers to one message the first counts, whichever
    sending it answers, so that nothing is added twice; hosts answer a repeated request with the same bits.

    Raises:
        HostError: a host failed or was silent; in a simulation nobody may be missing, since the numbers
            would silently be others.
    """
    started = time.perf_counter()
    found: dict[int, Message] = {}
    places = push(grid, messages, range(len(messages)), counters)
    sent, sendings = started, 1
    while len(found) < len(messages):
        for reply in grid.pull_messages(places):
            found.setdefault(places[reply.metadata.reply_to_message_id], reply)
        places = {identifier: place for identifier, place in places.items() if place not in found}
        silent = sorted(set(places.values()))
        if silent and time.perf_counter() - sent > timeout_seconds:
            hosts = listed(str(node) for node in sorted({messages[place].metadata.dst_node_id for place in silent}))
            text = f"{len(silent)} of {len(messages)} messages '{phase}' were not answered within {timeout_seconds:g} s"
            if sendings > retries:
                tries = f", {sendings} times" if retries else ""
                raise HostError(
                    f"{text}{tries}, by the hosts {hosts}; raise server.timeout_seconds if they are only slow"
                )
            report("note", text=f"{text}, by the hosts {hosts}; they are sent again")
            again = {place: copy_of(messages[place]) for place in silent}
            places |= push(grid, list(again.values()), list(again), counters)
            sent, sendings = time.perf_counter(), sendings + 1
        if silent:
            time.sleep(POLL_SECONDS)
    ordered = [found[place] for place in range(len(messages))]
    for reply in ordered:
        if reply.has_error():
            raise HostError(_reason(reply, phase))
    counters.bytes_up += sum(record_bytes(reply.content) for reply in ordered)
    counters.spend(phase, time.perf_counter() - started)
    return ordered


def push(grid: Grid, messages: Sequence[Message], places: Sequence[int], counters: Counters) -> dict[str, int]:
    """Send messages; return their ids, each with the place of what it asks for."""
    counters.bytes_down += sum(record_bytes(message.content) for message in messages)
    return dict(zip(grid.push_messages(messages), places, strict=True))


def copy_of(message: Message, content: RecordDict | None = None) -> Message:
    """Return a message to the same host, with an id of its own, that says the same or has another content."""
    facts = message.metadata
    said = message.content if content is None else content
    return Message(said, dst_node_id=facts.dst_node_id, message_type=facts.message_type, group_id=facts.group_id)


def _reason(reply: Message, phase: str) -> str:
    text = (reply.error.reason or "no reason given").strip()
    return f"host {reply.metadata.src_node_id} failed in '{phase}': {text}"
