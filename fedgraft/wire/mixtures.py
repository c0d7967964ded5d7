"""What a reply to `query.mixtures` holds: Gaussian mixtures of each client's classes, one row a component."""

from __future__ import annotations

import math
from typing import Literal

from fedgraft.errors import WireError
from fedgraft.wire.statistics import LARGEST_STATISTICS_BYTES

Covariance = Literal["spherical", "diagonal", "full"]


def mixture_shapes(num_rows: int, feature_dim: int, covariance: Covariance) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array, by name.

    Rows stand by client, then class. `client` is its turn among the clients that were asked, `class`, and `count` its
    samples of that class, all int64; `share` of the component in its mixture, `mean` and `covariance` (one variance,
    one a feature, or a matrix), all float32.
    """
    shape = {"spherical": (), "diagonal": (feature_dim,), "full": (feature_dim, feature_dim)}[covariance]
    numbers = dict.fromkeys(("client", "class", "count", "share"), (num_rows,))
    return {**numbers, "mean": (num_rows, feature_dim), "covariance": (num_rows, *shape)}


def mixture_bytes(num_rows: int, feature_dim: int, covariance: Covariance) -> int:
    """Return the bytes of so many components' arrays."""
    shapes = mixture_shapes(num_rows, feature_dim, covariance)
    return sum(math.prod(shape) * (8 if name in ("client", "class", "count") else 4) for name, shape in shapes.items())


def check_mixture_size(num_rows: int, feature_dim: int, covariance: Covariance) -> None:
    """Refuse mixtures that would not fit.

    Raises:
        WireError: more than `LARGEST_STATISTICS_BYTES`.
    """
    size = mixture_bytes(num_rows, feature_dim, covariance)
    if size > LARGEST_STATISTICS_BYTES:
        raise WireError(
            f"{num_rows:,} {covariance} Gaussians of {feature_dim:,} features are {size:,} bytes a reply, more than "
            f"{LARGEST_STATISTICS_BYTES:,}; take covariance diagonal or spherical, fewer components, or more shards"
        )
