"""Samples by their nearest centre: what a host answers to `query.clusters`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.alignment.moments import chunks
from fedgraft.data.samples import NO_LABEL
from fedgraft.errors import WireError
from fedgraft.randomness import key, orders
from fedgraft.wire.clusters import clusters_shapes, described_shapes

if TYPE_CHECKING:
    from fedgraft.data.federation import Federation

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


class Nearest:
    """Finds the nearest centre of samples, in float64.

    Args:
        features: `(num_samples, D)` of all samples.
        groups: `centres`, `mean` and perhaps `axes`, as the request has them.

    Raises:
        WireError: their shapes or types do not fit the features.
    """

    def __init__(self, features: NDArray[Any], groups: Mapping[str, NDArray[Any]]) -> None:
        dim = features.shape[1]
        centres, mean, axes = groups.get("centres"), groups.get("mean"), groups.get("axes")
        wanted = dim if axes is None else len(axes)
        good = (
            centres is not None
            and mean is not None
            and centres.ndim == 3
            and min(centres.shape) > 0
            and centres.shape[2] == wanted
            and mean.shape == (dim,)
            and (axes is None or axes.shape == (wanted, dim))
            and all(value is None or value.dtype == np.float64 for value in (centres, mean, axes))
        )
        if not good:
            came = {name: (value.shape, str(value.dtype)) for name, value in groups.items()}
            raise WireError(
                f"the request's clusters are {came}; expected float64 centres of {dim} features, or of axes"
            )
        self._features, self._mean, self._axes = features, np.asarray(mean), axes
        self.centres: Array = np.asarray(centres)

    def chunks(self, rows: Rows) -> Iterator[Array]:
        """Yield rows as the centres are given, `(num_rows, d)`, a chunk at a time."""
        for chunk in chunks(self._features, rows):
            centred = chunk - self._mean
            yield centred if self._axes is None else centred @ self._axes.T

    def labels(self, rows: Rows) -> Rows:
        """Return the nearest cluster of the first start of each row, `(num_rows,)`; of equal ones the first."""
        found = [squared_distances(chunk, self.centres[0]).argmin(axis=1) for chunk in self.chunks(rows)]
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def squared_distances(rows: Array, centres: Array) -> Array:
    """Return `(num_rows, num_clusters)` squared distances."""
    lengths = np.einsum("nd,nd->n", rows, rows)[:, None] + np.einsum("kd,kd->k", centres, centres)
    squared: Array = np.maximum(lengths - 2 * rows @ centres.T, 0.0)
    return squared


def cluster_sums(nearest: Nearest, rows: Rows) -> dict[str, NDArray[Any]]:
    """Return counts, sums and inertia of each cluster of each start, as `clusters_shapes` describes them."""
    starts, clusters, dim = nearest.centres.shape
    sums: dict[str, NDArray[Any]] = {
        name: np.zeros(shape) for name, shape in clusters_shapes(starts, clusters, dim).items()
    }
    for chunk in nearest.chunks(rows):
        for start, centres in enumerate(nearest.centres):
            distances = squared_distances(chunk, centres)
            labels = distances.argmin(axis=1)
            least = distances[np.arange(len(chunk)), labels]
            members = np.zeros((clusters, len(chunk)))
            members[labels, np.arange(len(chunk))] = 1.0
            sums["count"][start] += members.sum(axis=1)
            sums["sum"][start] += members @ chunk
            sums["inertia"][start] += np.bincount(labels, least, clusters)
    sums["count"] = sums["count"].astype(np.int64)
    return sums


def described(
    nearest: Nearest,
    train: Sequence[Rows],
    validation: Rows,
    classes: Rows | None,
    num_classes: int,
    keys: NDArray[np.uint64],
    seed: int,
    labelled: int,
) -> dict[str, NDArray[Any]]:
    """Return what a description adds, as `described_shapes` says.

    Args:
        nearest: with one start.
        train: each client's training rows.
        validation: all clients' validation rows.
        classes: of all samples, `NO_LABEL` of those without a label; None: the samples are of no classes.
        num_classes: 0 without classes.
        keys: the clients' keys.
        seed: the scenario's; it draws which samples of a class are the few labelled ones.
        labelled: how many of each class and client there are.
    """
    clusters = nearest.centres.shape[1]
    shapes = described_shapes(len(train), clusters, num_classes)
    found: dict[str, NDArray[Any]] = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes.items()}
    found["silhouette"] = np.array(
        sum(_silhouettes(chunk, nearest.centres[0]) for rows in train for chunk in nearest.chunks(rows)), dtype=float
    )
    for place, rows in enumerate(train):
        labels = nearest.labels(rows)
        found["client_count"][place] = np.bincount(labels, minlength=clusters)
        if classes is not None:
            known = classes[rows] != NO_LABEL
            own, labels = classes[rows][known], labels[known]
            np.add.at(found["contingency"], (own, labels), 1)
            few = _few(own, keys[place : place + 1], seed, labelled)
            np.add.at(found["votes"], (own[few], labels[few]), 1)
    if classes is not None:
        np.add.at(found["validation"], (classes[validation], nearest.labels(validation)), 1)
    return found


def known_classes(federation: Federation) -> Rows:
    """Return the classes of all samples, `NO_LABEL` of training samples whose label is not there or not to be used."""
    classes = federation.samples.targets.astype(np.int64)
    classes[federation.unlabelled.indices] = NO_LABEL
    return classes


def _silhouettes(rows: Array, centres: Array) -> float:
    """Return the summed simplified silhouettes: distances to centres stand for mean distances to members."""
    distances = np.sqrt(np.sort(squared_distances(rows, centres), axis=1)[:, :2])
    own, other = distances[:, 0], distances[:, 1]
    return float(((other - own) / np.where(other > 0, other, 1.0)).sum())


def _few(classes: Rows, client: NDArray[np.uint64], seed: int, most: int) -> Rows:
    """Return the places of at most so many samples of each class, drawn by the seed."""
    if not most or not len(classes):
        return np.zeros(0, dtype=np.int64)
    order = orders(key(seed, "labelled samples", 0, client), len(classes))[0]
    return np.concatenate([order[classes[order] == number][:most] for number in np.unique(classes)])
