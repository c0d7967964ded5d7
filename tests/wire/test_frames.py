"""Frames on a local socket: what is sent arrives, and what is not a frame is refused before it costs anything."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from fedgraft.errors import WireError
from fedgraft.wire.frames import Frame, opened, read_frame, sealed, write_frame
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import DescribeRequest


def carried(frame: Frame, largest_bytes: int = 10**9) -> Frame:
    """Return what arrives at the other end of a socket."""
    here, there = socket.socketpair()
    with here, there:

        def send() -> None:
            with contextlib.suppress(OSError):  # the reader may refuse it before all is sent
                write_frame(here, frame)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            return read_frame(there, largest_bytes)
        finally:
            there.close()
            sender.join(5)


def raw(header: bytes, payload: bytes, announced: int | None = None, magic: bytes = b"FGS1") -> Frame:
    """Return what a reader makes of hand-made bytes."""
    here, there = socket.socketpair()
    with here, there:
        here.sendall(struct.pack(">4sIQ", magic, len(header), len(payload) if announced is None else announced))
        here.sendall(header + payload)
        here.shutdown(socket.SHUT_WR)
        return read_frame(there)


def test_what_is_sent_arrives_to_the_last_bit() -> None:
    generator = np.random.default_rng(5)
    arrays = {
        "head": {"weight": generator.normal(size=(3, 1280)).astype(np.float32), "bias": np.zeros(3)},
        "clients": {"index": np.arange(7), "none": np.zeros((0, 4), dtype=np.float32), "one": np.array(2.5)},
    }
    arrived = carried(Frame({"kind": "train", "scenario": "{}"}, pack(DescribeRequest(run_id="r"), arrays)))
    assert arrived.facts == {"kind": "train", "scenario": "{}"}
    body, groups = unpack(arrived.record, DescribeRequest, "test")
    assert body.run_id == "r"
    assert {group: set(values) for group, values in groups.items()} == {g: set(v) for g, v in arrays.items()}
    for group, values in arrays.items():
        for name, value in values.items():
            np.testing.assert_array_equal(groups[group][name], value)
            assert groups[group][name].dtype == value.dtype


def test_a_frame_larger_than_allowed_is_refused_by_its_announcement() -> None:
    record = pack(DescribeRequest(run_id="r"), {"head": {"weight": np.zeros(100_000)}})
    with pytest.raises(WireError, match=r"800,\d\d\d of arrays; at most 16,000,000 and 1,000 are taken"):
        carried(Frame({}, record), largest_bytes=1000)


def test_room_is_made_for_what_comes_not_for_what_is_announced() -> None:
    with pytest.raises(ConnectionError, match=r"hung up after 3 of 1,900,000,000 bytes"):
        raw(b"{}", b"abc", announced=1_900_000_000)


GOOD = {"facts": {}, "configs": {}, "groups": {"g": {}}}


@pytest.mark.parametrize(
    ("header", "payload", "text"),
    [
        (b"not json", b"", "header does not fit"),
        (b"[]", b"", "header does not fit"),
        (b"[" * 100_000, b"", "header does not fit"),
        (json.dumps({"facts": {}}).encode(), b"", "header does not fit: 'configs'"),
        (json.dumps({**GOOD, "facts": []}).encode(), b"", "no table of names and values"),
        (json.dumps(GOOD).encode(), b"xy", "2 bytes more than its header names"),
        (
            json.dumps({**GOOD, "groups": {"g": [["w", "f4", [1], "numpy.ndarray", 9]]}}).encode(),
            b"xy",
            "9 bytes, where 2",
        ),
        (json.dumps({**GOOD, "groups": {"g": [["w", "f4", [1], "numpy.ndarray", -1]]}}).encode(), b"xy", "-1 bytes"),
        (json.dumps({**GOOD, "groups": {"g": [["w", "f4", [1], "numpy.ndarray", True]]}}).encode(), b"x", "True bytes"),
        (json.dumps({**GOOD, "configs": {"c": {"k": None}}}).encode(), b"", "header does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(header: bytes, payload: bytes, text: str) -> None:
    with pytest.raises(WireError, match=text):
        raw(header, payload)


def test_another_protocol_is_refused() -> None:
    with pytest.raises(WireError, match="begins with b'HTTP', expected b'FGS1'"):
        raw(b"{}", b"", magic=b"HTTP")


def test_an_empty_record_is_the_default() -> None:
    arrived = carried(Frame({"error": "no"}))
    assert arrived.facts == {"error": "no"}
    assert list(arrived.record) == list(RecordDict())


def test_a_sealed_record_is_one_array_and_opens_to_the_last_bit() -> None:
    arrays = {"head": {"weight": np.arange(12.0).reshape(3, 4)}, "clients": {"index": np.arange(2)}}
    record = pack(DescribeRequest(run_id="r"), arrays)
    closed = sealed(record)
    assert [len(group) for group in closed.array_records.values()] == [1]
    assert not closed.config_records
    body, groups = unpack(opened(closed), DescribeRequest, "test")
    assert body.run_id == "r"
    np.testing.assert_array_equal(groups["head"]["weight"], arrays["head"]["weight"])
    assert opened(record) is record


@pytest.mark.parametrize("data", [b"", b"FGS1", b"FGS1" + b"\xff" * 40, b"FGS1\0\0\0\2\0\0\0\0\0\0\0\3[]xyz"])
def test_a_damaged_seal_is_refused(data: bytes) -> None:
    damaged = RecordDict({"sealed": ArrayRecord({"sealed": Array("uint8", (len(data),), "sealed", data)})})
    with pytest.raises(WireError):
        opened(damaged)
