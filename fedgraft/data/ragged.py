"""Lists of indices of unequal length in two arrays, so that 100,000 clients cost no Python objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Ragged:
    """List `k` is `indices[offsets[k] : offsets[k + 1]]`; `offsets` are `(num_lists + 1,)` int64 from 0."""

    offsets: NDArray[np.int64]
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, number: int) -> NDArray[np.int64]:
        """Return list `number` as a view; numbers count from 0, negative ones are refused."""
        if not 0 <= number < len(self):
            raise IndexError(f"list {number} of {len(self)}")
        return self.indices[self.offsets[number] : self.offsets[number + 1]]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Return the length of each list, `(num_lists,)`."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """Return the number of the list that each index stands in, `(num_indices,)`."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.counts)

    def keep(self, chosen: NDArray[np.bool_]) -> Ragged:
        """Return the lists with the chosen indices only, `chosen` being `(num_indices,)`, in the same order."""
        counts = np.bincount(self.owners[chosen], minlength=len(self))
        return ragged(self.indices[chosen], counts)


def ragged(indices: NDArray[np.int64], counts: Sequence[int] | NDArray[np.int64]) -> Ragged:
    """Return lists of the given lengths, cut from `indices` one after another."""
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(np.asarray(counts, dtype=np.int64), out=offsets[1:])
    return Ragged(offsets, np.ascontiguousarray(indices, dtype=np.int64))


def ascending(lists: Ragged) -> Ragged:
    """Return the same lists, each in ascending order."""
    return Ragged(lists.offsets, lists.indices[np.lexsort((lists.indices, lists.owners))])


def merged(first: Ragged, second: Ragged) -> Ragged:
    """Return lists of the indices of two, list by list, each in ascending order."""
    indices = np.concatenate([first.indices, second.indices])
    owners = np.concatenate([first.owners, second.owners])
    return ragged(indices[np.lexsort((indices, owners))], first.counts + second.counts)
