"""Rows of an entry that is being written: space is reserved first, then every row is written once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import StoreError

WRITING_ADVICE = (
    "free space (`fedgraft cache clear`), set `features.dtype: float16` (half the bytes), "
    "or name another folder by XDG_CACHE_HOME"
)


class RowWriter:
    """Writes an `.npy` file row by row, in any order.

    It writes with `pwrite`, not through a memory map: a full disk is then an error and not a SIGBUS.

    Args:
        path: the file to make.
        num_rows: rows that the file will hold.
        dtype: `float32` or `float16`.
    """

    def __init__(self, path: Path, num_rows: int, dtype: str) -> None:
        self.path = path
        self.num_rows = num_rows
        self.dtype = np.dtype(dtype)
        self.num_features = 0
        self._is_written = np.zeros(num_rows, dtype=bool)
        self._file = path.open("xb+", buffering=0)
        self._offset = 0

    @property
    def shape(self) -> tuple[int, int]:
        """`(num_rows, num_features)`."""
        return self.num_rows, self.num_features

    def allocate(self, num_features: int) -> None:
        """Reserve the whole file, so that a disk that is too small says so before hours of computing.

        Raises:
            StoreError: the disk has not got the space.
        """
        self.num_features = num_features
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": self.shape,
        }
        num_bytes = self.num_rows * num_features * self.dtype.itemsize
        try:
            np.lib.format.write_array_header_1_0(self._file, header)
            self._offset = self._file.tell()
            _reserve(self._file.fileno(), self._offset + num_bytes)
        except OSError as error:
            raise self._failure(error, num_bytes) from error

    def write(self, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write `values (num_values, num_features)` to the rows of these numbers.

        Raises:
            StoreError: a value does not fit the dtype, or the disk refuses.
        """
        if values.shape != (len(rows), self.num_features):
            raise ValueError(f"values have shape {values.shape}, {len(rows)} rows of {self.num_features} were expected")
        try:
            with np.errstate(over="raise"):
                values = np.ascontiguousarray(values, dtype=self.dtype)
        except FloatingPointError as error:
            raise StoreError(
                f"features reach {np.abs(values).max():.3g}, {self.dtype} holds up to {np.finfo(self.dtype).max:g}; "
                "set `features.dtype: float32`"
            ) from error
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # each run of neighbours is one write
        row_bytes = self.num_features * self.dtype.itemsize
        try:
            for start, end in zip(starts, np.append(starts[1:], len(rows)), strict=True):
                self._pwrite(values[start:end], self._offset + int(rows[start]) * row_bytes)
        except OSError as error:
            raise self._failure(error, values.nbytes) from error
        self._is_written[rows] = True

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return rows that were written before, `(num_rows, num_features)`."""
        row_bytes = self.num_features * self.dtype.itemsize
        parts = [os.pread(self._file.fileno(), row_bytes, self._offset + int(row) * row_bytes) for row in rows]
        return np.frombuffer(b"".join(parts), dtype=self.dtype).reshape(len(rows), self.num_features)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is None and not self._is_written.all():
            raise ValueError(f"{np.count_nonzero(~self._is_written)} of {self.num_rows} rows were never written")

    def _pwrite(self, values: NDArray[Any], offset: int) -> None:
        left = memoryview(values.data).cast("B")
        while left:
            num_written = os.pwrite(self._file.fileno(), left, offset)  # at most 2 GB a call
            left, offset = left[num_written:], offset + num_written

    def _failure(self, error: OSError, num_bytes: int) -> StoreError:
        folder = self.path.parent.parent
        reason = error.strerror or str(error)
        return StoreError(f"can't write {num_bytes / 1e6:,.1f} MB of features to {folder}: {reason}; {WRITING_ADVICE}")


def _reserve(handle: int, num_bytes: int) -> None:
    """Give the file its whole size, with its blocks where the file system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, num_bytes)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.ftruncate(handle, num_bytes)
