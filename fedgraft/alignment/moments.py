"""First and second moments of features, without labels, from sums that add up over clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import WireError
from fedgraft.wire.statistics import LARGEST_STATISTICS_BYTES, SUMS_TOLERANCE

Array = NDArray[np.float64]
Sums = dict[str, Array]
MomentKind = Literal["diagonal", "full"]

CHUNK_BYTES = 32 * 1024 * 1024
"""Float64 features that are in memory at once."""

CONSTANT = 1e-12
"""A variance below this share of the mean square is rounding: the feature never varies."""


def moments_shapes(feature_dim: int, kind: MomentKind) -> dict[str, tuple[int, ...]]:
    """Return the shape of each sum, by name; all are float64 sums over samples.

    `count` `()`, `feature_sum` `(D,)`, and `square_sum` `(D,)`, or for `full` `second_moment` `(D, D)` = `X^T X`.
    """
    shapes: dict[str, tuple[int, ...]] = {"count": (), "feature_sum": (feature_dim,)}
    return shapes | ({"square_sum": (feature_dim,)} if kind == "diagonal" else {"second_moment": (feature_dim,) * 2})


def check_moments_size(feature_dim: int, kind: MomentKind) -> None:
    """Refuse moments that would not fit.

    Raises:
        WireError: more than `LARGEST_STATISTICS_BYTES`.
    """
    size = 8 * feature_dim**2
    if kind == "full" and size > LARGEST_STATISTICS_BYTES:
        raise WireError(
            f"the covariance of {feature_dim:,} features is {size:,} bytes, more than {LARGEST_STATISTICS_BYTES:,}; "
            "take the diagonal, or cut the backbone where it has fewer features"
        )


def moment_sums(features: NDArray[Any], rows: NDArray[np.int64], kind: MomentKind) -> Sums:
    """Return the sums over some rows, as `moments_shapes` describes them; products and sums are in float64.

    Args:
        features: `(num_samples, D)` of all samples.
        rows: which samples.
        kind: which second moment.
    """
    sums: Sums = {name: np.zeros(shape) for name, shape in moments_shapes(features.shape[1], kind).items()}
    sums["count"] += len(rows)
    for chunk in chunks(features, rows):
        sums["feature_sum"] += chunk.sum(axis=0)
        if kind == "diagonal":
            sums["square_sum"] += np.square(chunk).sum(axis=0)
        else:
            sums["second_moment"] += chunk.T @ chunk
    return sums


def chunks(features: NDArray[Any], rows: NDArray[np.int64]) -> Iterator[Array]:
    """Yield the rows' features in float64, `(num_rows, D)`, a chunk at a time."""
    step = rows_a_chunk(features.shape[1])
    for first in range(0, len(rows), step):
        yield features[rows[first : first + step]].astype(np.float64)


def rows_a_chunk(feature_dim: int) -> int:
    """Return how many rows of features are taken at once."""
    return max(1, CHUNK_BYTES // (8 * max(1, feature_dim)))


def check_moment_sums(sums: Mapping[str, NDArray[Any]], num_samples: int, what: str) -> None:
    """Refuse sums that no samples of that number can have.

    Raises:
        WireError: says which.
    """
    if sums["count"] != num_samples:
        raise WireError(f"{what}: its count is {float(sums['count']):g}, expected {num_samples:,}")
    moment = sums.get("second_moment")
    squares = sums["square_sum"] if moment is None else np.diag(moment)
    # Cauchy and Schwarz: the square of a sum is at most the number of terms times the sum of squares
    if (np.square(sums["feature_sum"]) > num_samples * squares * (1 + SUMS_TOLERANCE)).any():
        raise WireError(f"{what}: sums of squares are smaller than the sums of features allow; no samples have such")
    if moment is not None:
        difference = np.abs(moment - moment.T).max(initial=0.0)
        if difference > SUMS_TOLERANCE * np.abs(moment).max(initial=0.0):
            raise WireError(f"{what}: second_moment is not symmetric (largest difference {difference:g})")


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of features.

    Attributes:
        mean: `(D,)`.
        covariance: `(D, D)`, or `(D,)` variances alone; divided by the number of samples.
    """

    mean: Array
    covariance: Array

    @property
    def variance(self) -> Array:
        """Variance of each feature, `(D,)`."""
        return self.covariance if self.covariance.ndim == 1 else np.diag(self.covariance).copy()


def moments_of(sums: Mapping[str, NDArray[Any]]) -> Moments:
    """Return the moments that sums give.

    Raises:
        WireError: they are of no samples.
    """
    count = float(sums["count"])
    if count < 1:
        raise WireError("the sums are of no samples; moments need one at least")
    mean = sums["feature_sum"] / count
    if "square_sum" in sums:
        squares = sums["square_sum"] / count
        variance = squares - np.square(mean)
        return Moments(mean, np.where(variance > CONSTANT * squares, variance, 0.0))
    second = sums["second_moment"] / count
    covariance = second - np.outer(mean, mean)
    constant = np.diag(covariance) <= CONSTANT * np.diag(second)
    covariance[constant] = 0.0
    covariance[:, constant] = 0.0
    return Moments(mean, (covariance + covariance.T) / 2)


def added(first: Mapping[str, NDArray[Any]], second: Moments, weight: float) -> Sums:
    """Return sums to which `weight` samples with given moments were added."""
    sums = {name: np.array(value, dtype=np.float64) for name, value in first.items()}
    if weight:
        sums["count"] += weight
        sums["feature_sum"] += weight * second.mean
        if "square_sum" in sums:
            sums["square_sum"] += weight * (second.covariance + np.square(second.mean))
        else:
            sums["second_moment"] += weight * (second.covariance + np.outer(second.mean, second.mean))
    return sums
