"""Rows of features out of a user's own files, for a model that takes features: tables by column names, and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.sources.column_features import named_features
from fedgraft.data.sources.columns import SUFFIXES, read_columns
from fedgraft.errors import DataError

ROW_SUFFIXES = frozenset({".npy", ".npz", *SUFFIXES})


def read_rows(path: Path, feature_dim: int, names: Sequence[str]) -> NDArray[np.float32]:
    """Return the features of a table or an array file, `(N, feature_dim)`.

    Args:
        path: of the file.
        feature_dim: features that the model takes.
        names: of those features, where the run's source knew them; columns of tables are found by them.

    Raises:
        DataError: it holds something else.
    """
    if path.suffix.lower() not in ROW_SUFFIXES:
        raise DataError(
            "this run was trained on ready features (backbone identity); give .npy files, or .npz files with an "
            f"array 'features', of (N, {feature_dim})" + (", or tables (.csv, .parquet)" if names else "")
        )
    if path.suffix.lower() in SUFFIXES:
        if not names:
            raise DataError(
                "the run's features have no names, so columns can't be told apart; give .npy files, or .npz files with "
                f"an array 'features', of (N, {feature_dim})"
            )
        return named_features(read_columns(path), names)
    return _of_arrays(path, feature_dim)


def _of_arrays(path: Path, feature_dim: int) -> NDArray[np.float32]:
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)
            if path.suffix.lower() == ".npz" and "features" not in stored.files:
                raise DataError(f"it has no array 'features', but {', '.join(stored.files) or 'nothing'}")
            values = np.asarray(stored["features"] if path.suffix.lower() == ".npz" else stored)
    except DataError:
        raise
    except Exception as error:  # what a damaged file raises differs by damage
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"no file of plain arrays ({reason}); write it with numpy.save") from error
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] != feature_dim or values.dtype.kind not in "fiu":
        raise DataError(f"it holds {values.dtype} of shape {values.shape}, expected numbers of (N, {feature_dim})")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(f"{len(bad)} of {len(values)} rows have NaN, infinite or too large values, first row {bad[0]}")
    if len(values) == 0:
        raise DataError("it holds no rows")
    return values
