"""Aligned features: computed once for the rows that a process needs, kept in a file that no one else sees.

The file is as long as the features are, but holds only the rows that were written; it has no name, and goes when the
process lets it go.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.alignment.maps import AffineMap, Reference, coral
from fedgraft.alignment.moments import Moments, added, moment_sums, moments_of, rows_a_chunk
from fedgraft.alignment.settings import MapSettings, Standardise
from fedgraft.errors import StoreError
from fedgraft.features.rows import WRITING_ADVICE
from fedgraft.files import cache_directory

if TYPE_CHECKING:
    from fedgraft.data.federation import Federation

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Domain:
    """Samples that share a map.

    Attributes:
        known: rows whose features tell the domain's own moments.
        rows: rows that are mapped.
    """

    known: Rows
    rows: Rows


def domains_of_clients(federation: Federation) -> Iterator[Domain]:
    """Yield the domain of each client, whose training part tells its moments."""
    train = federation.all_train
    for client in range(federation.num_clients):
        known, held_out = train.of(client), federation.validation.of(client)
        yield Domain(known, np.union1d(known, held_out))


def domains_of_test(federation: Federation) -> list[Domain]:
    """Return the domains of the central test part: its groups, or without groups the whole of it."""
    rows, groups = federation.test, federation.samples.group
    if groups is None or not len(rows):
        return [Domain(rows, rows)]
    _, places = np.unique(groups[rows], return_inverse=True)
    parts = [rows[places == place] for place in range(int(places.max()) + 1)]
    return [Domain(part, part) for part in parts]


def aligned(
    features: NDArray[Any],
    settings: MapSettings,
    ground: Mapping[str, NDArray[Any]],
    domains: Iterable[Domain],
) -> NDArray[Any]:
    """Return features `(num_samples, D)` in which the rows of the domains are aligned; the others are zeros.

    They are mapped in float64 and have the dtype of `features`.

    Args:
        features: as the backbone gave them.
        settings: how they are aligned.
        ground: what onto, as `fedgraft.alignment.maps.ground` gives it.
        domains: the rows that are needed.

    Raises:
        StoreError: the disk is full, or values do not fit the dtype.
    """
    folder = cache_directory()
    setting = "align.epsilon" if isinstance(settings, Standardise) else "align.regularisation"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(max(1, features.size * features.dtype.itemsize))
            find = _maps(settings, ground)
            for domain in domains:
                if len(domain.rows):
                    mapped = find(features, domain.known)
                    _write(file, features, domain.rows, mapped, setting)
            if features.size == 0:
                return np.zeros_like(features)
            return np.memmap(file, features.dtype, "r", shape=features.shape)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"can't write aligned features to {folder}: {reason}; {WRITING_ADVICE}") from error


def _maps(settings: MapSettings, ground: Mapping[str, NDArray[Any]]) -> Callable[[NDArray[Any], Rows], AffineMap]:
    """Return what finds a domain's map, from all features and the rows that tell its moments."""
    if isinstance(settings, Standardise):
        standard = AffineMap(ground["mean"], 1 / ground["scale"], np.zeros_like(ground["mean"]))
        return lambda features, known: standard
    moments = Moments(ground["mean"], ground["covariance"])
    reference = Reference(moments, settings.regularisation)

    def find(features: NDArray[Any], known: Rows) -> AffineMap:
        if len(known) == 0 and settings.prior_samples == 0:
            return AffineMap(moments.mean, np.ones_like(moments.mean), moments.mean)
        sums = moment_sums(features, known, settings.covariance)
        return coral(moments_of(added(sums, moments, settings.prior_samples)), reference)

    return find


def _write(file: IO[bytes], features: NDArray[Any], rows: Rows, mapped: AffineMap, setting: str) -> None:
    """Write the mapped rows at their places: through the file, since a full disk is then an error and not a SIGBUS."""
    step, row_bytes = rows_a_chunk(features.shape[1]), features.shape[1] * features.dtype.itemsize
    for first in range(0, len(rows), step):
        some = rows[first : first + step]
        values = mapped(features[some].astype(np.float64))
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= float(np.finfo(features.dtype).max):
            raise StoreError(f"aligned features reach {largest:.3g}, too much for {features.dtype}; raise {setting}")
        values = np.ascontiguousarray(values, dtype=features.dtype)
        starts = np.flatnonzero(np.diff(some, prepend=-2) != 1)  # each run of neighbours is one write
        for start, end in zip(starts, np.append(starts[1:], len(some)), strict=True):
            left, offset = memoryview(values[start:end].data).cast("B"), int(some[start]) * row_bytes
            while left:
                written = os.pwrite(file.fileno(), left, offset)  # at most 2 GB a call
                left, offset = left[written:], offset + written
