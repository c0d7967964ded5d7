"""The one outbound seam: every record that leaves a client passes here.

It counts bytes and tells the listeners of this process; the site's ledger, and later privacy and secure
aggregation, hang on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Error, Message, RecordDict
from numpy.typing import NDArray

from fedgraft.settings import Settings
from fedgraft.wire.records import pack, record_bytes


@dataclass(frozen=True)
class Departure:
    """One record that leaves: the kind of request that it answers, its content, and its bytes."""

    request: str
    record: RecordDict
    num_bytes: int


Watcher = Callable[[Departure], None]
watchers: list[Watcher] = []
"""Called before a record leaves; one that raises keeps it in."""


def release(kind: str, body: Settings, groups: Mapping[str, Mapping[str, NDArray[Any]]], *own: Watcher) -> RecordDict:
    """Return the record that answers a kind of request, once every watcher has let it pass.

    Args:
        kind: the request's.
        body: the answer's.
        groups: its arrays.
        own: watchers of this one record, beside those of the process.
    """
    record = pack(body, groups)
    departure = Departure(kind, record, record_bytes(record))
    for watcher in (*watchers, *own):
        watcher(departure)
    return record


def send(request: Message, body: Settings, groups: Mapping[str, Mapping[str, NDArray[Any]]]) -> Message:
    """Return the reply to a request; nothing else in `clients/` makes a message."""
    return pass_on(request, release(request.metadata.message_type, body, groups))


def pass_on(request: Message, released: RecordDict) -> Message:
    """Return the reply to a request whose record has been released, here or by the site's resident host."""
    return Message(released, reply_to=request)


def refuse(request: Message, code: int, text: str) -> Message:
    """Return the reply that says why a request is not answered; it holds nothing else."""
    return Message(Error(code, text), reply_to=request)
