"""One exchange with the hosts: messages out, replies back, bytes counted, failures named."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedgraft.errors import FedGraftError, listed
from fedgraft.wire.records import record_bytes
from server.checkpoint import Counters

POLL_SECONDS = 0.05
"""Between two looks for replies; Flower's own loop waits 3 s, which is most of a round."""


class HostError(FedGraftError):
    """A host answered with an error, or did not answer in time."""


class StateLostError(FedGraftError):
    """Hosts lack the version of their clients' state that a round starts from; the run can go back and repeat it."""


def exchange(
    grid: Grid, messages: Sequence[Message], counters: Counters, phase: str, timeout_seconds: float
) -> list[Message]:
    """Send messages and return their replies, in the order of the messages.

    Raises:
        HostError: a host failed or was silent; in a simulation nobody may be missing, since the numbers
            would silently be others.
    """
    started = time.perf_counter()
    counters.bytes_down += sum(record_bytes(message.content) for message in messages)
    identifiers = list(grid.push_messages(messages))
    waiting, replies = set(identifiers), dict[str, Message]()
    while waiting:
        for reply in grid.pull_messages(waiting):
            replies[reply.metadata.reply_to_message_id] = reply
        waiting -= set(replies)
        if waiting and time.perf_counter() - started > timeout_seconds:
            pairs = zip(identifiers, messages, strict=True)
            silent = sorted({message.metadata.dst_node_id for identifier, message in pairs if identifier in waiting})
            raise HostError(
                f"{len(waiting)} of {len(messages)} messages '{phase}' were not answered within "
                f"{timeout_seconds:g} s, by the hosts {listed(map(str, silent))}; "
                "raise server.timeout_seconds if they are only slow"
            )
        if waiting:
            time.sleep(POLL_SECONDS)
    for identifier in identifiers:
        if replies[identifier].has_error():
            raise HostError(_reason(replies[identifier], phase))
    ordered = [replies[identifier] for identifier in identifiers]
    counters.bytes_up += sum(record_bytes(reply.content) for reply in ordered)
    counters.spend(phase, time.perf_counter() - started)
    return ordered


def _reason(reply: Message, phase: str) -> str:
    text = (reply.error.reason or "no reason given").strip()
    return f"host {reply.metadata.src_node_id} failed in '{phase}': {text}"
