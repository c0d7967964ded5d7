"""What the engine reads of a host's clients: where their features stand, targets, and Gram matrices kept in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.engine.choice import Bucket
from clients.engine.feature_rows import FeatureRows
from fedgraft.compute_settings import Precision
from fedgraft.data.ragged import Ragged
from fedgraft.evaluation import Objective
from fedgraft.models.losses import target_tensor

if TYPE_CHECKING:
    import torch

LARGEST_KEPT_BYTES = 4 * 2**30
"""Targets and Gram matrices that a host keeps between rounds; what is beyond is computed anew in each."""


@dataclass(frozen=True)
class Kept:
    """What is kept of some clients, padded with zeros: targets `(num_clients, n)` or `(num_clients, n, C)`, Grams."""

    targets: torch.Tensor
    gram: torch.Tensor | None

    def of(self, rows: NDArray[np.int64]) -> Kept:
        """Return some of the clients, in ascending order; neighbours without a copy."""
        import torch

        neighbours = len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows)
        here = self.targets.device
        chosen: Any = slice(int(rows[0]), int(rows[-1]) + 1) if neighbours else torch.from_numpy(rows).to(here)
        return Kept(self.targets[chosen], None if self.gram is None else self.gram[chosen])


@dataclass(frozen=True)
class Table:
    """Some clients that train at once.

    Attributes:
        sizes: `(num_clients,)` training samples.
        samples: `(sum of sizes,)` which rows of the features are theirs, client after client.
        rows: the features.
        targets: `(num_clients, n)` or `(num_clients, n, C)`, padded with zeros.
        gram: `(num_clients, n, n)`, padded with zeros, if they train in the dual form.
    """

    sizes: NDArray[np.int64]
    samples: NDArray[np.int64]
    rows: FeatureRows
    targets: torch.Tensor
    gram: torch.Tensor | None

    @cached_property
    def features(self) -> torch.Tensor:
        """Features `(num_clients, n, D)`, padded with zeros; not to be written."""
        return self.padded(self.rows.of(self.samples))

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of all samples, client after client, `(sum of sizes, W)`, as `(num_clients, n, W)`."""
        shape = (*self.targets.shape[:2], values.shape[1])
        if self._real is None:
            return values.view(shape)
        padded = values.new_zeros((shape[0] * shape[1], shape[2]))
        return padded.index_copy_(0, self._real, values).view(shape)

    def packed(self, values: torch.Tensor) -> torch.Tensor:
        """Return the reverse of `padded`."""
        flat = values.flatten(0, 1)
        return flat if self._real is None else flat.index_select(0, self._real)

    @cached_property
    def _real(self) -> torch.Tensor | None:
        """Places of samples among all places; None if every place has one."""
        import torch

        count, longest = self.targets.shape[:2]
        if len(self.samples) == count * longest:
            return None
        return torch.from_numpy(np.flatnonzero(np.arange(longest) < self.sizes[:, None])).to(self.rows.device)


class Tables:
    """The tables of all buckets of a host; threads may ask at once for clients that are others.

    Args:
        features: `(num_samples, D)` of all samples.
        targets: of all samples.
        train: each client's training samples, by the federation's positions.
        clients: `(num_clients,)` positions of the host's clients among the federation's.
        objective: the head, whose bias the Gram matrices hold, and the loss, which says what targets look like.
        dtype: of all computation.
        device: that computes.
        precision: of the large products.
    """

    def __init__(
        self,
        features: NDArray[Any],
        targets: NDArray[Any],
        train: Ragged,
        clients: NDArray[np.int64],
        objective: Objective,
        dtype: torch.dtype,
        device: torch.device | None = None,
        precision: Precision = "float32",
    ) -> None:
        self._rows = FeatureRows(features, dtype, device, precision)
        self._device = self._rows.device
        self._targets, self._train, self._clients = targets, train, clients
        self._objective, self._dtype = objective, dtype
        self._kept: dict[int, tuple[Kept, NDArray[np.bool_]]] = {}
        self._room = LARGEST_KEPT_BYTES
        self._lock = threading.Lock()

    def of(self, group: Sequence[tuple[int, Bucket, NDArray[np.int64]]]) -> Table:
        """Return the table of the clients in some rows, ascending, of some buckets, each with its number."""
        sizes = np.concatenate([bucket.sizes[rows] for _, bucket, rows in group])
        samples = [self._samples(bucket, rows) for _, bucket, rows in group]
        kept = _joined([part for number, bucket, rows in group for part in self._parts(number, bucket, rows)])
        return Table(sizes, np.concatenate(samples), self._rows, kept.targets, kept.gram)

    def _parts(self, number: int, bucket: Bucket, rows: NDArray[np.int64]) -> list[Kept]:
        """Return what is kept of some clients, read now if it was not, and what is not kept."""
        kept, filled = self._shelf(number, bucket)
        inside, outside = rows[rows < len(filled)], rows[rows >= len(filled)]
        missing = inside[~filled[inside]]
        if len(missing):
            self._fill(kept, missing, bucket, missing)
            filled[missing] = True
        parts = [kept.of(inside)] if len(inside) else []
        if len(outside):
            fresh = self._empty(bucket, len(outside))
            self._fill(fresh, np.arange(len(outside)), bucket, outside)
            parts.append(fresh)
        return parts

    def _samples(self, bucket: Bucket, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the samples of the clients in some rows of a bucket, client after client."""
        sizes = bucket.sizes[rows]
        starts = self._train.offsets[self._clients[bucket.clients[rows]]]
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        samples: NDArray[np.int64] = self._train.indices[np.repeat(starts, sizes) + within]
        return samples

    def _shelf(self, number: int, bucket: Bucket) -> tuple[Kept, NDArray[np.bool_]]:
        """Return what is kept of a bucket: as many of its first clients as there was room for, and which are read."""
        with self._lock:
            if number not in self._kept:
                one = self._empty(bucket, 1)
                size = sum(value.nbytes for value in (one.targets, one.gram) if value is not None)
                count = min(len(bucket.clients), self._room // size)
                self._room -= count * size
                self._kept[number] = self._empty(bucket, count), np.zeros(count, dtype=np.bool_)
            return self._kept[number]

    def _empty(self, bucket: Bucket, count: int) -> Kept:
        """Return room for some clients; the system gives the memory as it is filled, zeros would take it at once."""
        import torch

        longest, objective = int(bucket.sizes[0]), self._objective
        kind = target_tensor(self._targets[:0], objective.task, objective.loss, objective.num_outputs)
        dtype = self._dtype if kind.is_floating_point() else kind.dtype
        dual = bucket.form == "dual"
        return Kept(
            torch.empty((count, longest, *kind.shape[1:]), dtype=dtype, device=self._device),
            torch.empty((count, longest, longest), dtype=self._dtype, device=self._device) if dual else None,
        )

    def _fill(self, kept: Kept, places: NDArray[np.int64], bucket: Bucket, rows: NDArray[np.int64]) -> None:
        """Read the targets of the clients in some rows of a bucket into places, and compute their Gram matrices."""
        import torch

        objective, longest = self._objective, kept.targets.shape[1]
        within, sizes = np.arange(longest), bucket.sizes[rows]
        real, at = within < sizes[:, None], places[:, None] * longest + within
        samples = self._samples(bucket, rows)
        own = target_tensor(self._targets[samples], objective.task, objective.loss, objective.num_outputs)
        flat = kept.targets.flatten(0, 1)
        flat.index_fill_(0, torch.from_numpy(at[~real]).to(flat.device), 0)
        flat.index_copy_(0, torch.from_numpy(at[real]).to(flat.device), own.to(flat.device, flat.dtype))
        if kept.gram is None:
            return
        one = 1.0 if getattr(objective.head, "bias", False) else 0.0
        first = 0
        for gram in self._rows.grams(samples, sizes, longest, one):
            some = slice(first, first + len(gram))
            kept.gram[torch.from_numpy(places[some])] = gram
            first = some.stop


def _joined(parts: Sequence[Kept]) -> Kept:
    """Return the clients of several parts one after another, padded to the longest."""
    import torch

    if len(parts) == 1:
        return parts[0]
    longest = max(part.targets.shape[1] for part in parts)

    def longer(value: torch.Tensor, *dimensions: int) -> torch.Tensor:
        padding = [0, 0] * value.dim()
        for dimension in dimensions:
            padding[2 * (value.dim() - dimension) - 1] = longest - value.shape[dimension]
        return torch.nn.functional.pad(value, padding)

    grams = [longer(part.gram, 1, 2) for part in parts if part.gram is not None]
    return Kept(torch.cat([longer(part.targets, 1) for part in parts]), torch.cat(grams) if grams else None)
