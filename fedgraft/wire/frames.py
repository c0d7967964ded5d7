"""Records as bytes on a local socket: a length, a JSON header, and the arrays' bytes as Flower packs them.

Between the process that speaks Flower's protocol at a site and the one that holds the site's data. Nothing is
unpickled, and nothing is believed: lengths are checked before room is made for them, and what the arrays say of
themselves is checked by `fedgraft.wire.records` when they are unpacked.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedgraft.errors import WireError
from fedgraft.wire.records import LARGEST_RECORD_BYTES

MAGIC = b"FGS1"
LARGEST_HEADER_BYTES = 16_000_000
"""A header holds a scenario, a body and the names of arrays; a backbone has some hundred."""

SEAL = "sealed"
"""The name of the one array of a sealed record."""

_LENGTHS = struct.Struct(">4sIQ")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Frame:
    """What crosses the socket: facts, which are JSON, and a record (the empty one where there is nothing to say)."""

    facts: dict[str, Any]
    record: RecordDict = field(default_factory=RecordDict)


def write_frame(connection: socket.socket, frame: Frame) -> None:
    """Send a frame."""
    header, payload = _encoded(frame)
    connection.sendall(_LENGTHS.pack(MAGIC, len(header), sum(len(part) for part in payload)) + header)
    for part in payload:
        connection.sendall(part)


def read_frame(connection: socket.socket, largest_bytes: int = LARGEST_RECORD_BYTES) -> Frame:
    """Receive a frame.

    Raises:
        WireError: it is none, or larger than allowed, or its parts do not fit together.
        OSError: the connection broke, or was silent for too long.
    """
    magic, num_header, num_payload = _LENGTHS.unpack(_exactly(connection, _LENGTHS.size))
    if magic != MAGIC:
        raise WireError(f"what came over the socket begins with {magic!r}, expected {MAGIC!r}; not FedGraft's")
    if num_header > LARGEST_HEADER_BYTES or num_payload > largest_bytes:
        raise WireError(
            f"a frame announces {num_header:,} bytes of header and {num_payload:,} of arrays; at most "
            f"{LARGEST_HEADER_BYTES:,} and {largest_bytes:,} are taken"
        )
    header = bytes(_exactly(connection, num_header))
    return _decoded(header, memoryview(_exactly(connection, num_payload)))


def sealed(record: RecordDict) -> RecordDict:
    """Return a record as one array of bytes.

    Flower sends, stores and asks for every array of a message by itself, and between machines each costs a request or
    two and an entry in a database: a reply of 20 small arrays takes seconds, one of a single array does not.
    """
    header, payload = _encoded(Frame({}, record))
    data = b"".join([_LENGTHS.pack(MAGIC, len(header), sum(map(len, payload))), header, *payload])
    return RecordDict({SEAL: ArrayRecord({SEAL: Array("uint8", (len(data),), SEAL, data)})})


def opened(record: RecordDict) -> RecordDict:
    """Return the record that `sealed` was given; one that is not sealed is returned as it is.

    Raises:
        WireError: it is damaged.
    """
    group = record.array_records.get(SEAL)
    array = None if group is None else group.get(SEAL)
    if array is None:
        return record
    data = memoryview(array.data)
    if len(data) < _LENGTHS.size:
        raise WireError(f"a sealed record of {len(data)} bytes is too short to be one")
    magic, num_header, num_payload = _LENGTHS.unpack(data[: _LENGTHS.size])
    body = data[_LENGTHS.size :]
    if magic != MAGIC or num_header > LARGEST_HEADER_BYTES or num_header + num_payload != len(body):
        raise WireError(f"a sealed record of {len(data):,} bytes does not have the lengths that it names")
    return _decoded(bytes(body[:num_header]), body[num_header:]).record


def _encoded(frame: Frame) -> tuple[bytes, list[bytes]]:
    record = frame.record
    payload = [array.data for group in record.array_records.values() for array in group.values()]
    header = {
        "facts": frame.facts,
        "configs": {name: dict(config) for name, config in record.config_records.items()},
        "groups": {
            name: [[key, array.dtype, list(array.shape), array.stype, len(array.data)] for key, array in group.items()]
            for name, group in record.array_records.items()
        },
    }
    try:
        return json.dumps(header).encode(), payload
    except TypeError as error:
        raise WireError(f"a record holds what JSON can't say: {error}; expected texts and numbers") from error


def _decoded(header: bytes, payload: memoryview) -> Frame:
    begin = 0

    def part(num_bytes: object) -> bytes:
        nonlocal begin
        if type(num_bytes) is not int or not 0 <= num_bytes <= len(payload) - begin:
            raise ValueError(f"an array of {num_bytes!r} bytes, where {len(payload) - begin} are left")
        begin += num_bytes
        return bytes(payload[begin - num_bytes : begin])

    try:
        parsed = json.loads(header)
        record = RecordDict({name: ConfigRecord(config) for name, config in parsed["configs"].items()})
        for name, arrays in parsed["groups"].items():
            record[name] = ArrayRecord(
                {key: Array(dtype, tuple(shape), stype, part(size)) for key, dtype, shape, stype, size in arrays}
            )
        facts = parsed["facts"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WireError(f"a frame's header does not fit: {error}") from error
    if begin != len(payload):
        raise WireError(f"a frame has {len(payload) - begin:,} bytes more than its header names")
    if not isinstance(facts, dict):
        raise WireError("a frame's facts are no table of names and values")
    return Frame(facts, record)


def _exactly(connection: socket.socket, num_bytes: int) -> bytearray:
    """Receive so many bytes; room is made as they come, not as they are announced."""
    received = bytearray()
    while len(received) < num_bytes:
        part = connection.recv(min(_CHUNK, num_bytes - len(received)))
        if not part:
            raise ConnectionError(f"the other side hung up after {len(received):,} of {num_bytes:,} bytes")
        received += part
    return received
