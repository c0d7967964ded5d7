"""The samples of a host's clients as padded tables: read when a client first trains, kept while there is room."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.engine.choice import Bucket
from fedgraft.data.ragged import Ragged
from fedgraft.evaluation import Objective
from fedgraft.models.losses import target_tensor

if TYPE_CHECKING:
    import torch

LARGEST_KEPT_BYTES = 4 * 2**30
"""Features and Gram matrices that a host keeps between rounds; what is beyond is read anew in each."""

ROWS_AT_ONCE = 4096
"""Rows of features that are read and converted at once."""


@dataclass(frozen=True)
class Table:
    """Some clients' samples: features `(num_clients, n, D)` and targets, padded with zeros; Gram matrices if dual."""

    features: torch.Tensor
    targets: torch.Tensor
    gram: torch.Tensor | None

    def of(self, rows: NDArray[np.int64]) -> Table:
        """Return some of the clients, in ascending order; neighbours without a copy."""
        import torch

        neighbours = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        chosen: Any = slice(int(rows[0]), int(rows[-1]) + 1) if neighbours else torch.from_numpy(rows)
        gram = None if self.gram is None else self.gram[chosen]
        return Table(self.features[chosen], self.targets[chosen], gram)


def joined(tables: Sequence[Table]) -> Table:
    """Return the clients of several tables one after another, padded to the longest."""
    import torch

    if len(tables) == 1:
        return tables[0]
    longest = max(table.features.shape[1] for table in tables)

    def longer(value: torch.Tensor, *dimensions: int) -> torch.Tensor:
        padding = [0, 0] * value.dim()
        for dimension in dimensions:
            padding[2 * (value.dim() - dimension) - 1] = longest - value.shape[dimension]
        return torch.nn.functional.pad(value, padding)

    grams = [longer(table.gram, 1, 2) for table in tables if table.gram is not None]
    return Table(
        torch.cat([longer(table.features, 1) for table in tables]),
        torch.cat([longer(table.targets, 1) for table in tables]),
        torch.cat(grams) if grams else None,
    )


class Tables:
    """The tables of all buckets of a host.

    Args:
        features: `(num_samples, D)` of all samples.
        targets: of all samples.
        train: each client's training samples, by the federation's positions.
        clients: `(num_clients,)` positions of the host's clients among the federation's.
        objective: the head, whose bias the Gram matrices hold, and the loss, which says what targets look like.
        dtype: of all computation.
    """

    def __init__(
        self,
        features: NDArray[Any],
        targets: NDArray[Any],
        train: Ragged,
        clients: NDArray[np.int64],
        objective: Objective,
        dtype: torch.dtype,
    ) -> None:
        self._features, self._targets, self._train, self._clients = features, targets, train, clients
        self._objective, self._dtype = objective, dtype
        self._kept: dict[int, tuple[Table, NDArray[np.bool_]]] = {}
        self._room = LARGEST_KEPT_BYTES

    def of(self, number: int, bucket: Bucket, rows: NDArray[np.int64]) -> Table:
        """Return the samples of the clients in some rows, ascending, of bucket `number`; read what was not kept."""
        kept, filled = self._shelf(number, bucket)
        inside, outside = rows[rows < len(filled)], rows[rows >= len(filled)]
        missing = inside[~filled[inside]]
        self._fill(kept, missing, bucket, missing)
        filled[missing] = True
        tables = [kept.of(inside)] if len(inside) else []
        if len(outside):
            fresh = self._empty(bucket, len(outside))
            self._fill(fresh, np.arange(len(outside)), bucket, outside)
            tables.append(fresh)
        return joined(tables)

    def _shelf(self, number: int, bucket: Bucket) -> tuple[Table, NDArray[np.bool_]]:
        """Return what is kept of a bucket: as many of its first clients as there was room for, and which are read."""
        if number not in self._kept:
            one = self._empty(bucket, 1)
            size = sum(value.nbytes for value in (one.features, one.targets, one.gram) if value is not None)
            count = min(len(bucket.clients), self._room // size)
            self._room -= count * size
            self._kept[number] = self._empty(bucket, count), np.zeros(count, dtype=np.bool_)
        return self._kept[number]

    def _empty(self, bucket: Bucket, count: int) -> Table:
        """Return a table whose memory the system gives as it is filled; zeros would be written at once."""
        import torch

        longest, objective = int(bucket.sizes[0]), self._objective
        kind = target_tensor(self._targets[:0], objective.task, objective.loss, objective.num_outputs)
        dtype = self._dtype if kind.is_floating_point() else kind.dtype
        dual = bucket.form == "dual"
        return Table(
            torch.empty((count, longest, self._features.shape[1]), dtype=self._dtype),
            torch.empty((count, longest, *kind.shape[1:]), dtype=dtype),
            torch.empty((count, longest, longest), dtype=self._dtype) if dual else None,
        )

    def _fill(self, table: Table, places: NDArray[np.int64], bucket: Bucket, rows: NDArray[np.int64]) -> None:
        """Read the samples of the clients in some rows of a bucket into places of a table."""
        import torch

        if not len(rows):
            return
        objective, longest = self._objective, table.features.shape[1]
        within = np.arange(longest)
        real = within < bucket.sizes[rows][:, None]
        starts = self._train.offsets[self._clients[bucket.clients[rows]]]
        samples = self._train.indices[(starts[:, None] + within)[real]]
        to = (places[:, None] * longest + within)[real]
        padding = torch.from_numpy((places[:, None] * longest + within)[~real])
        flat_features, flat_targets = table.features.flatten(0, 1), table.targets.flatten(0, 1)
        for value in (flat_features, flat_targets):
            value.index_fill_(0, padding, 0)
        for first in range(0, len(samples), ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            read = torch.from_numpy(np.asarray(self._features[samples[some]])).to(self._dtype)
            flat_features.index_copy_(0, torch.from_numpy(to[some]), read)
        self._let_pages_go()
        own = target_tensor(self._targets[samples], objective.task, objective.loss, objective.num_outputs)
        flat_targets.index_copy_(0, torch.from_numpy(to), own.to(flat_targets.dtype))
        if table.gram is None:
            return
        one = 1.0 if getattr(objective.head, "bias", False) else 0.0
        for place, size in zip(places.tolist(), bucket.sizes[rows].tolist(), strict=True):
            own, gram = table.features[place, :size], table.gram[place].zero_()
            torch.mm(own, own.T, out=gram[:size, :size]).add_(one)

    def _let_pages_go(self) -> None:
        """Drop the pages of the file that were read: they stand in tables now, and would count twice."""
        if isinstance(self._features, np.memmap) and self._features.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
            mapped = getattr(self._features, "_mmap", None)  # NumPy has no other way to the map
            if isinstance(mapped, mmap.mmap):
                mapped.madvise(mmap.MADV_DONTNEED)
