"""Euclidean norms of named arrays, in float64; what is too large for it is infinite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def norm(arrays: Iterable[NDArray[Any]]) -> float:
    """Return the norm over all numbers of some arrays."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(sum(float(np.square(value, dtype=np.float64).sum()) for value in arrays)))


def row_norms(arrays: Iterable[NDArray[Any]]) -> list[float]:
    """Return the norm of each row over arrays `(num_rows, *shape)`."""
    with np.errstate(over="ignore"):
        squares = [np.square(value.reshape(len(value), -1), dtype=np.float64).sum(axis=1) for value in arrays]
        return [float(value) for value in np.sqrt(np.sum(squares, axis=0))] if squares else []
