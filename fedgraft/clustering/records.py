"""What a clustering gives its user."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.wire.protocol import SCHEMA

FEW = 5
"""Samples below which a cluster's centre says much of single samples."""


@dataclass(frozen=True)
class Cluster:
    """One cluster.

    Attributes:
        size: training samples.
        num_clients: that have some of them.
        largest_share: of its samples, at one client.
        name: the class that its few labelled samples voted for; None: there were none.
    """

    size: int
    num_clients: int
    largest_share: float
    name: str | None = None


@dataclass(frozen=True)
class Clustering:
    """Clusters of all clients' features, the largest first.

    Attributes:
        scenario: its name.
        num_clients: of the federation.
        num_samples: training samples.
        feature_dim: features a sample.
        components: principal axes that features were projected onto; None: they were not.
        explained_variance_ratio: share of the variance along each of the first axes.
        clusters: the largest first.
        inertias: summed squared distances to the nearest centre, before each step and after the last, of the best
            start.
        starts: inertia of each start at its end.
        converged: whether no sample changed its cluster in the last step.
        explained: share of the variance (of what was projected) that the centres explain.
        silhouette: simplified: mean of `(b - a) / b`, with distances to the own centre and to the next one.
        adjusted_rand: agreement with classes, if there are some; evaluation only.
        normalised_information: the same.
        named_accuracy: share of validation samples whose cluster bears their class's name, if clusters were named.
        num_bytes: that were sent, both ways.
        seconds: of the exchanges.
        directory: where the files lie.
        centres: `(k, D)`.
        axes: `(num_axes, D)` principal axes, as many as were projected onto, else all.
        mean: `(D,)`.
        client_counts: `(num_clients, k)` training samples.
        client_names: of the rows.
    """

    scenario: str
    num_clients: int
    num_samples: int
    feature_dim: int
    components: int | None
    explained_variance_ratio: tuple[float, ...]
    clusters: tuple[Cluster, ...]
    inertias: tuple[float, ...]
    starts: tuple[float, ...]
    converged: bool
    explained: float
    silhouette: float
    adjusted_rand: float | None
    normalised_information: float | None
    named_accuracy: float | None
    num_bytes: int
    seconds: float
    directory: Path
    centres: NDArray[np.float64]
    axes: NDArray[np.float64]
    mean: NDArray[np.float64]
    client_counts: NDArray[np.int64]
    client_names: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values, as `clusters.json` holds it: without the arrays."""
        arrays = ("centres", "axes", "mean", "client_counts", "client_names")
        known = {name: value for name, value in vars(self).items() if name not in arrays}
        return {
            "schema": SCHEMA,
            **known,
            "clusters": [asdict(cluster) for cluster in self.clusters],
            "directory": str(self.directory),
        }
