"""Small arrays that were costly to compute, kept in the cache: written whole, checked on every read."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import StoreError
from fedgraft.files import cache_directory, replacing

AnyArray = NDArray[Any]
_CHECKSUM = "sha256"


def digest_of(*parts: str | bytes) -> str:
    """Return the sha256, in hex, of parts, each with its length before it so that no two lists collide."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def _checksum(arrays: Mapping[str, AnyArray]) -> str:
    parts: list[str | bytes] = []
    for name in sorted(arrays):
        array = arrays[name]
        parts += [name, array.dtype.str, str(array.shape), np.ascontiguousarray(array).tobytes()]
    return digest_of(*parts)


def _path(kind: str, key: str) -> Path:
    return cache_directory() / kind / f"{key}.npz"


def read(kind: str, key: str) -> dict[str, AnyArray] | None:
    """Return the arrays kept under a key, or None if there are none or the file is damaged."""
    try:
        with _path(kind, key).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None  # computed again; a damaged file is overwritten
    checksum = arrays.pop(_CHECKSUM, None)
    return arrays if checksum is not None and str(checksum) == _checksum(arrays) else None


def write(kind: str, key: str, arrays: Mapping[str, AnyArray]) -> None:
    """Keep arrays under a key; a cache that can't be written is no fault, the next run computes again."""
    with (
        contextlib.suppress(StoreError),
        replacing(_path(kind, key)) as temporary,
        temporary.open("wb") as file,
    ):
        np.savez(file, **{**arrays, _CHECKSUM: np.array(_checksum(arrays))})  # type: ignore[arg-type]


def remembered(
    kind: str, key: str, stamp: str, compute: Callable[[], Mapping[str, AnyArray]]
) -> Mapping[str, AnyArray]:
    """Return the arrays kept under a key if their stamp still holds; otherwise compute and keep them.

    The stamp says in which state the source was (size and time of its files). One entry is kept a key, so an
    edited source replaces its own.
    """
    kept = read(kind, key)
    if kept is not None and str(kept.get("stamp")) == stamp:
        return kept
    arrays = compute()
    write(kind, key, {**arrays, "stamp": np.array(stamp)})
    return arrays
