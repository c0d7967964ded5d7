"""Requests and replies as Flower records, and the checks of whatever arrives.

A record holds one JSON body, `ConfigRecord "body"`, and groups of named arrays, one `ArrayRecord` a group
(`head`, `update`, `clients`, ...). Arrays are NumPy's own format without pickle, as Flower packs them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray
from pydantic import ValidationError

from fedgraft.errors import WireError, listed
from fedgraft.settings import Settings
from fedgraft.wire.protocol import PROTOCOL, check_number

Arrays = Mapping[str, NDArray[Any]]
Body = TypeVar("Body", bound=Settings)

LARGEST_RECORD_BYTES = 2_000_000_000
"""What one record may hold; a `stack` reply above it is refused before it is built."""

_KINDS = frozenset("biuf")


def array_record(arrays: Arrays) -> ArrayRecord:
    """Return named arrays as a Flower record."""
    # order="C", not np.ascontiguousarray, which would turn a scalar into an array of one
    return ArrayRecord({name: Array(np.asarray(value, order="C")) for name, value in arrays.items()})


def pack(body: Settings, groups: Mapping[str, Arrays] | None = None) -> RecordDict:
    """Return the record of a body and its groups of arrays."""
    record = RecordDict({"body": ConfigRecord({"protocol": PROTOCOL, "json": body.model_dump_json()})})
    for group, arrays in (groups or {}).items():
        record[group] = array_record(arrays)
    return record


def unpack(record: RecordDict, model: type[Body], what: str) -> tuple[Body, dict[str, dict[str, NDArray[Any]]]]:
    """Return the body and the groups of a record that came from another process, checked.

    Args:
        record: what came.
        model: the settings model that the body must fit.
        what: who sent what, for the texts of errors ("reply to train from node 3").

    Raises:
        WireError: another protocol, a body that does not fit, or arrays that can't be trusted: not NumPy's
            format, a dtype or shape other than declared, values that are not finite, or too large.
    """
    body = record.config_records.get("body")
    if body is None:
        raise WireError(f"{what} has no body, it holds {listed(record) or 'nothing'}; it does not come from FedGraft")
    check_number("protocol", body.get("protocol"), PROTOCOL, what)
    try:
        parsed = model.model_validate_json(str(body.get("json")))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
        raise WireError(f"{what} has a body that does not fit {model.__name__}: {faults}") from error
    if (size := record_bytes(record)) > LARGEST_RECORD_BYTES:
        raise WireError(f"{what} holds {size:,} bytes, more than {LARGEST_RECORD_BYTES:,}")
    groups = {
        group: {name: _decode(array, f"{what}: {group}.{name}") for name, array in arrays.items()}
        for group, arrays in record.array_records.items()
    }
    return parsed, groups


def group_of(record: RecordDict, group: str) -> dict[str, NDArray[Any]] | None:
    """Return one group of a record's arrays, checked as `unpack` does; None: it has no such group.

    Raises:
        WireError: an array is damaged.
    """
    found = record.array_records.get(group)
    return None if found is None else {name: _decode(array, f"{group}.{name}") for name, array in found.items()}


def _decode(array: Array, what: str) -> NDArray[Any]:
    """Return the NumPy array of a Flower array; nothing is believed of what it says about itself."""
    if array.stype != "numpy.ndarray":
        raise WireError(f"{what} is packed as {array.stype!r}; only numpy.ndarray is accepted")
    shape, order, dtype, start = _header(array.data, what)
    num_bytes = len(array.data) - start
    if dtype.kind not in _KINDS:
        raise WireError(f"{what} is of type {dtype}; expected numbers")
    if shape != tuple(array.shape) or str(dtype) != array.dtype:
        raise WireError(f"{what} says {array.dtype} {tuple(array.shape)} and holds {dtype} {shape}")
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != num_bytes:
        raise WireError(f"{what} says {dtype} {shape} and holds {num_bytes:,} bytes")
    try:
        value: NDArray[Any] = np.ndarray(shape, dtype, array.data, start, order=order).copy(order="K")
    except (ValueError, TypeError, OverflowError) as error:
        raise WireError(f"{what} is not a NumPy array without pickle: {error}") from error
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        count = int(value.size - np.isfinite(value).sum())
        raise WireError(f"{what} has {count} of {value.size} values that are not finite (NaN or infinite)")
    return value


def _header(data: bytes, what: str) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any], int]:
    """Return the shape, the order and the dtype that an array's header states, and where the numbers begin.

    NumPy's own `load` is not asked: it makes room for whatever the header states, and opens a zip as well.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"version {version} of the format, expected (1, 0)")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # a hostile header raises whatever Python's own parser meets in it
        raise WireError(f"{what} is not a NumPy array without pickle: {error}") from error
    return shape, "F" if is_fortran else "C", dtype, stream.tell()


def expect(
    arrays: Arrays | None, shapes: Mapping[str, tuple[int, ...]], what: str, dtype: np.dtype[Any] | None = None
) -> None:
    """Refuse a group of arrays whose names, shapes or (if given) dtypes are others than expected.

    Raises:
        WireError: the group is missing, or names, shapes or dtypes differ; all that differ are named.
    """
    if arrays is None:
        raise WireError(f"{what} is missing")
    missing, surplus = sorted(set(shapes) - set(arrays)), sorted(set(arrays) - set(shapes))
    faults = [f"missing {listed(missing)}"] if missing else []
    faults += [f"unexpected {listed(surplus)}"] if surplus else []
    faults += [
        f"{name} has shape {arrays[name].shape}, expected {tuple(shape)}"
        for name, shape in shapes.items()
        if name in arrays and tuple(arrays[name].shape) != tuple(shape)
    ]
    faults += [
        f"{name} is {arrays[name].dtype}, expected {dtype}"
        for name in shapes
        if dtype is not None and name in arrays and arrays[name].dtype != dtype
    ]
    if faults:
        raise WireError(f"{what}: {'; '.join(faults)}")


def record_bytes(record: RecordDict) -> int:
    """Return the bytes of a record's payload: arrays as packed, and text; without Flower's framing (about 1 %)."""
    arrays = sum(len(array.data) for group in record.array_records.values() for array in group.values())
    texts = sum(
        len(value) for config in record.config_records.values() for value in config.values() if isinstance(value, str)
    )
    return arrays + texts
