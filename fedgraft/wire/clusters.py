"""What a reply to `query.clusters` holds: names and shapes of the sums."""

from __future__ import annotations

from fedgraft.errors import WireError
from fedgraft.wire.statistics import LARGEST_STATISTICS_BYTES

WHOLE = ("count", "client_count", "contingency", "validation", "votes")
"""Sums of whole numbers, int64; the others are float64."""


def clusters_shapes(num_starts: int, num_clusters: int, dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each sum, by name, over training samples.

    `count` `(S, k)`, samples of each cluster; `sum` `(S, k, d)`, their summed features, as the centres have them;
    `inertia` `(S, k)`, their summed squared distances to the centre.
    """
    return {
        "count": (num_starts, num_clusters),
        "sum": (num_starts, num_clusters, dim),
        "inertia": (num_starts, num_clusters),
    }


def described_shapes(num_clients: int, num_clusters: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of what comes with a description, by name.

    `client_count` `(num_clients, k)`, samples of each client in each cluster; `silhouette` `()`, the sum over samples
    of `(b - a) / max(a, b)` with the distances `a` to the own centre and `b` to the next one. With classes also, by
    class and cluster `(C, k)`: `contingency` of training samples, `validation` of validation samples, and `votes` of
    the few labelled training samples.
    """
    shapes: dict[str, tuple[int, ...]] = {"client_count": (num_clients, num_clusters), "silhouette": ()}
    tables = ("contingency", "validation", "votes") if num_classes else ()
    return shapes | dict.fromkeys(tables, (num_classes, num_clusters))


def check_clusters_size(num_starts: int, num_clusters: int, dim: int) -> None:
    """Refuse sums that would not fit.

    Raises:
        WireError: more than `LARGEST_STATISTICS_BYTES`.
    """
    size = 8 * num_starts * num_clusters * (dim + 2)
    if size > LARGEST_STATISTICS_BYTES:
        raise WireError(
            f"{num_starts} starts of {num_clusters:,} clusters of {dim:,} features are {size:,} bytes a reply, more "
            f"than {LARGEST_STATISTICS_BYTES:,}; take fewer starts, or fewer axes (--components)"
        )
