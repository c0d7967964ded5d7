"""Records: what is packed comes back, what is hostile is refused with a text, and sizes are what Flower sends."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from fedgraft.errors import WireError
from fedgraft.wire import records
from fedgraft.wire.protocol import PROTOCOL
from fedgraft.wire.records import expect, pack, record_bytes, unpack
from fedgraft.wire.requests import DescribeRequest, TrainReply, TrainRequest

BODY = DescribeRequest(run_id="run-0001")
WHAT = "reply to train from node 3"


def through_flower(record: RecordDict) -> RecordDict:
    """Return the record as it arrives on the other side of Flower's own gRPC messages."""
    proto = ProtoRecordDict()
    proto.ParseFromString(recorddict_to_proto(record).SerializeToString())
    return recorddict_from_proto(proto)


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, value, **options)
    return stream.getvalue()


def with_array(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = (3,), stype: str = "numpy.ndarray") -> Any:
    """Return a record whose one array `update.weight` says and holds what is given."""
    record = pack(BODY)
    record["update"] = ArrayRecord({"weight": Array(dtype, shape, stype, data)})
    return record


def refusal(record: RecordDict) -> str:
    with pytest.raises(WireError) as caught:
        unpack(record, DescribeRequest, WHAT)
    return str(caught.value)


numbers = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(endianness="="),
    arrays_of.unsigned_integer_dtypes(endianness="="),
    arrays_of.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
)


def finite(dtype: np.dtype) -> st.SearchStrategy:
    shapes = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    if dtype.kind != "f":
        return arrays_of.arrays(dtype, shapes)
    bits = dtype.itemsize * 8
    return arrays_of.arrays(dtype, shapes, elements=st.floats(allow_nan=False, allow_infinity=False, width=bits))


@given(value=numbers.flatmap(finite), transposed=st.booleans())
def test_every_dtype_and_shape_comes_back_to_the_bit(value: np.ndarray, transposed: bool) -> None:
    value = value.T if transposed else value
    body, groups = unpack(through_flower(pack(BODY, {"head": {"x": value}})), DescribeRequest, WHAT)
    assert body == BODY
    came = groups["head"]["x"]
    assert (came.dtype, came.shape) == (value.dtype, value.shape)
    assert came.tobytes() == np.asarray(value, order="C").tobytes()
    came[...] = 0  # what came is ours to change


def test_groups_and_names_come_back_in_order() -> None:
    sent = {"head": {"b": np.zeros(2), "a": np.ones(())}, "clients": {}, "metrics": {"count": np.array(3.0)}}
    _, groups = unpack(through_flower(pack(BODY, sent)), DescribeRequest, WHAT)
    assert {group: list(values) for group, values in groups.items()} == {
        "head": ["b", "a"],
        "clients": [],
        "metrics": ["count"],
    }


def test_bodies_come_back() -> None:
    request = TrainRequest(run_id="r", weights_digest="d", round_number=3, shard=0, sums=("update", "control"))
    assert unpack(through_flower(pack(request)), TrainRequest, WHAT)[0] == request
    reply = TrainReply(round_number=3, shard=1, num_clients=2, scalars={"weight": 1 / 3}, seconds=0.1)
    assert unpack(through_flower(pack(reply)), TrainReply, WHAT)[0] == reply


class Grenade:
    """Makes itself known when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('a pickle was opened')",)


def header(text: str, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    encoded = text.encode("latin1")
    length = struct.pack("<H" if version == (1, 0) else "<I", len(encoded))
    return b"\x93NUMPY" + bytes(version) + length + encoded + content


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("weight.npy", saved(np.zeros(3, dtype=np.float32)))
    return stream.getvalue()


NPY = "is not a NumPy array without pickle"
VALID = saved(np.zeros(3, dtype=np.float32))


@pytest.mark.parametrize(
    ("record", "text"),
    {
        "object array": (
            with_array(saved(np.array([Grenade()], dtype=object), allow_pickle=True), "object", (1,)),
            "is of type object; expected numbers",
        ),
        "bare pickle": (with_array(pickle.dumps(Grenade())), NPY),
        "object array that says float": (
            with_array(saved(np.array([Grenade()] * 3, dtype=object), allow_pickle=True)),
            "is of type object; expected numbers",
        ),
        "text": (with_array(saved(np.array(["a"])), "<U1", (1,)), "is of type <U1; expected numbers"),
        "complex": (with_array(saved(np.zeros(3, complex)), "complex128"), "is of type complex128; expected numbers"),
        "fields": (
            with_array(saved(np.zeros(3, dtype=[("a", "f4")])), "[('a', '<f4')]"),
            "is of type [('a', '<f4')]; expected numbers",
        ),
        "another shape": (
            with_array(VALID, shape=(4,)),
            "says float32 (4,) and holds float32 (3,)",
        ),
        "another dtype": (
            with_array(VALID, dtype="float64"),
            "says float64 (3,) and holds float32 (3,)",
        ),
        "torch's own packing": (with_array(VALID, stype="torch.tensor"), "is packed as 'torch.tensor'; only numpy"),
        "nothing": (with_array(b""), NPY),
        "half": (with_array(VALID[:-5]), "says float32 (3,) and holds 7 bytes"),
        "half of a header": (with_array(VALID[:40]), NPY),
        "more behind it": (with_array(VALID + b"x"), "says float32 (3,) and holds 13 bytes"),
        "zip": (with_array(zipped()), NPY),
        "broken zip": (with_array(b"PK\x03\x04 and so on"), NPY),
        "header of code": (with_array(header("__import__('os').abort()\n")), NPY),
        "header that is no dictionary": (with_array(header("[1]\n")), NPY),
        "deep header": (with_array(header("(" * 5000 + ")" * 5000)), NPY),
        "unbalanced header": (with_array(header("{'descr': (")), NPY),
        "long header": (with_array(header(" " * 20_000 + "{}")), NPY),
        "later version": (with_array(header("{}", version=(3, 0))), "version (3, 0) of the format, expected (1, 0)"),
        "negative shape": (
            with_array(
                header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, -3)}\n", bytes(12)), "float32", (-1, -3)
            ),
            "says float32 (-1, -3) and holds 12 bytes",
        ),
        "a petabyte": (
            with_array(
                header("{'descr': '<f4', 'fortran_order': False, 'shape': (250000000000000,)}\n", bytes(12)),
                shape=(250000000000000,),
            ),
            "says float32 (250000000000000,) and holds 12 bytes",
        ),
        "nothing times too much": (
            with_array(
                header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 1180591620717411303424)}\n"),
                shape=(0, 1180591620717411303424),
            ),
            NPY,
        ),
        "NaN": (
            with_array(saved(np.array([1, np.nan, -np.inf], dtype=np.float32))),
            "has 2 of 3 values that are not finite (NaN or infinite)",
        ),
        "NaN without dimension": (
            with_array(saved(np.array(np.nan, dtype=np.float16)), "float16", ()),
            "has 1 of 1 values that are not finite",
        ),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_arrays_are_refused(record: RecordDict, text: str) -> None:
    said = refusal(record)
    assert said.startswith(f"{WHAT}: update.weight ")
    assert text in said


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_text(data: bytes) -> None:
    assert NPY in refusal(with_array(data))


@given(position=st.integers(0, len(VALID) - 1), value=st.integers(0, 255))
def test_one_changed_byte_is_read_or_refused_with_a_text(position: int, value: int) -> None:
    damaged = bytearray(VALID)
    damaged[position] = value
    try:
        _, groups = unpack(with_array(bytes(damaged)), DescribeRequest, WHAT)
    except WireError as error:
        assert str(error).startswith(f"{WHAT}: update.weight ")  # noqa: PT017 - reading it is right as well
    else:
        assert (groups["update"]["weight"].dtype, groups["update"]["weight"].shape) == (np.float32, (3,))


def with_body(**values: Any) -> RecordDict:
    return RecordDict({"body": ConfigRecord(values)})


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (RecordDict(), f"{WHAT} has no body, it holds nothing; it does not come from FedGraft"),
        (
            RecordDict({"parameters": ArrayRecord([np.zeros(2)]), "metrics": MetricRecord({"a": 1})}),
            f"{WHAT} has no body, it holds parameters, metrics; it does not come from FedGraft",
        ),
        (
            RecordDict({"body": ArrayRecord([np.zeros(2)])}),
            f"{WHAT} has no body, it holds body; it does not come from FedGraft",
        ),
        (
            with_body(protocol=PROTOCOL + 1, json=BODY.model_dump_json()),
            f"{WHAT} has protocol {PROTOCOL + 1}, this release of FedGraft knows {PROTOCOL}; "
            "install the same release on both sides (fedgraft --version tells)",
        ),
        (
            with_body(json=BODY.model_dump_json()),
            f"{WHAT} has protocol None, this release of FedGraft knows {PROTOCOL}; "
            "install the same release on both sides (fedgraft --version tells)",
        ),
        (
            with_body(protocol=True, json=BODY.model_dump_json()),
            f"{WHAT} has protocol True, this release of FedGraft knows {PROTOCOL}; "
            "install the same release on both sides (fedgraft --version tells)",
        ),
        (
            with_body(protocol=PROTOCOL, json='{"run_id": "a", "stray": 1}'),
            f"{WHAT} has a body that does not fit DescribeRequest: stray: Extra inputs are not permitted",
        ),
        (
            with_body(protocol=PROTOCOL, json='{"run_id": 1}'),
            f"{WHAT} has a body that does not fit DescribeRequest: run_id: Input should be a valid string",
        ),
        (
            with_body(protocol=PROTOCOL, json="{}"),
            f"{WHAT} has a body that does not fit DescribeRequest: run_id: Field required",
        ),
    ],
)
def test_other_bodies_are_refused(record: RecordDict, text: str) -> None:
    assert refusal(record) == text


@pytest.mark.parametrize("body", [{}, {"json": "["}, {"json": b"{}"}, {"json": 3}, {"json": "[1]"}, {"json": "null"}])
def test_a_body_that_is_no_json_object_is_refused(body: dict[str, Any]) -> None:
    assert "has a body that does not fit DescribeRequest: " in refusal(with_body(protocol=PROTOCOL, **body))


def test_a_record_that_is_too_large_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGEST_RECORD_BYTES", 1000)
    record = with_array(b"\0" * 1200)
    assert refusal(record) == f"{WHAT} holds {record_bytes(record):,} bytes, more than 1,000"


def test_expect_names_every_difference() -> None:
    shapes = {"weight": (2, 3), "bias": (2,)}
    expect({"bias": np.zeros(2), "weight": np.zeros((2, 3))}, shapes, "the head")
    with pytest.raises(WireError, match=r"^the head is missing$"):
        expect(None, shapes, "the head")
    with pytest.raises(WireError) as caught:
        expect({"wieght": np.zeros((2, 3)), "bias": np.zeros((2, 1))}, shapes, "the head")
    assert str(caught.value) == "the head: missing weight; unexpected wieght; bias has shape (2, 1), expected (2,)"


def test_record_bytes_is_what_flower_sends() -> None:
    """A head of 1280 x 10 in float32: within 3 % of the serialised message content."""
    head = {"weight": np.ones((10, 1280), dtype=np.float32), "bias": np.zeros(10, dtype=np.float32)}
    request = TrainRequest(run_id="0" * 36, weights_digest="0" * 64, round_number=1, shard=0)
    record = pack(request, {"head": head, "clients": {"index": np.arange(100)}})
    sent = len(recorddict_to_proto(record).SerializeToString())
    assert record_bytes(record) == pytest.approx(sent, rel=0.03)
    assert record_bytes(record) == record_bytes(through_flower(record))
