"""The one outbound seam: every record that leaves a client passes here.

It counts bytes and tells the listeners of this process; the site's ledger, and later privacy and secure
aggregation, hang on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
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


def send(request: Message, body: Settings, groups: Mapping[str, Mapping[str, NDArray[Any]]]) -> Message:
    """Return the reply to a request; nothing else in `clients/` makes a message."""
    record = pack(body, groups)
    departure = Departure(request.metadata.message_type, record, record_bytes(record))
    for watcher in watchers:
        watcher(departure)
    return Message(record, reply_to=request)
