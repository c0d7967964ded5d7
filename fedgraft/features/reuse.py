"""Which rows of a new entry need no computing: those that stand in another entry, and repeated pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedgraft.features.rows import RowWriter

if TYPE_CHECKING:
    from fedgraft.features.store import FeatureStore

_COPIED_AT_ONCE = 4096 * 1280  # numbers; 20 MB of float32


def copy_stored_rows(
    rows: RowWriter, store: FeatureStore, backbone_key: str, sample_digests: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Copy every row whose sample stands in another entry; return the rows that must be computed, ascending.

    Of samples that are equal only the first is copied or computed; `copy_repeated_rows` does the others.

    Args:
        rows: where to copy to; already allocated.
        store: where to look.
        backbone_key: entries of this key are looked at, of the dtype of `rows`.
        sample_digests: `(num_rows, 16)`.
    """
    samples, targets = np.unique(_names(sample_digests), return_index=True)
    for key, theirs in store.sharing(backbone_key, rows.dtype.name):
        if len(samples) == 0:
            break
        _, ours_at, theirs_at = np.intersect1d(samples, _names(theirs), return_indices=True)
        found = store.get(key) if len(ours_at) else None
        if found is None or found.shape[1] != rows.num_features:
            continue
        order = np.argsort(targets[ours_at])  # ascending rows are written in long runs
        for part in np.array_split(order, -(-len(order) // _rows_at_once(rows))):
            rows.write(targets[ours_at[part]], found[theirs_at[part]])
        samples, targets = np.delete(samples, ours_at), np.delete(targets, ours_at)
    return np.sort(targets)


def copy_repeated_rows(rows: RowWriter, sample_digests: NDArray[np.uint8]) -> None:
    """Give each sample that equals an earlier one the row of the first of them."""
    _, first, inverse = np.unique(_names(sample_digests), return_index=True, return_inverse=True)
    sources = first[inverse]
    repeated = np.flatnonzero(sources != np.arange(len(sources)))
    at_once = _rows_at_once(rows)
    for first_of_part in range(0, len(repeated), at_once):
        part = repeated[first_of_part : first_of_part + at_once]
        rows.write(part, rows.read(sources[part]))


def _rows_at_once(rows: RowWriter) -> int:
    return max(1, _COPIED_AT_ONCE // max(1, rows.num_features))


def _names(sample_digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """View `(n, 16)` digests as `(n,)` byte strings, which NumPy can sort."""
    return np.ascontiguousarray(sample_digests).view("S16")[:, 0]
