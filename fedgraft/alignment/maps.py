"""The maps that take a domain's features onto common ground: one affine map a domain.

Standardisation is the same for all: `(x - mean) / scale`. CORAL (Sun, Feng and Saenko: Return of Frustratingly Easy
Domain Adaptation, AAAI 2016, arXiv:1511.05547, algorithm 1) whitens with the moments of the domain `k` itself and
colours with those of a reference `r`; as rows,

    x' = (x - m_k) (C_k + lambda I)^-1/2 (C_r + lambda I)^1/2 + m_r

Differs from the paper: many domains are mapped onto one reference, each with its own map, where the paper maps one
source onto one target; both means are part of the map, where the paper centres and scales both domains beforehand; and
lambda is `regularisation` times the mean variance of the reference, which is the paper's 1 for features so scaled.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.alignment.moments import Array, Moments
from fedgraft.alignment.settings import MapSettings, Standardise
from fedgraft.errors import WireError
from fedgraft.wire.records import expect
from fedgraft.wire.statistics import SUMS_TOLERANCE


@dataclass(frozen=True, eq=False)
class AffineMap:
    """`(x - origin) mixing + target`, with a matrix or one factor a feature."""

    origin: Array
    mixing: Array
    target: Array

    def __call__(self, features: Array) -> Array:
        """Return mapped rows, `(num_rows, D)`."""
        centred = features - self.origin
        mixed = centred * self.mixing if self.mixing.ndim == 1 else centred @ self.mixing
        return mixed + self.target


def standardisation(moments: Moments, epsilon: float) -> dict[str, Array]:
    """Return the arrays `mean` and `scale`, `(D,)`: the root of variance and epsilon, 1 where that is 0."""
    variance = moments.variance + epsilon
    return {"mean": moments.mean, "scale": np.where(variance > 0, np.sqrt(variance), 1.0)}


def ground(settings: MapSettings, moments: Moments) -> dict[str, Array]:
    """Return the arrays that say what the common ground is, as hosts and run directories get them."""
    if isinstance(settings, Standardise):
        return standardisation(moments, settings.epsilon)
    return {"mean": moments.mean, "covariance": moments.covariance}


def ground_shapes(settings: MapSettings, feature_dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of those arrays, by name."""
    if isinstance(settings, Standardise):
        return {"mean": (feature_dim,), "scale": (feature_dim,)}
    square = settings.covariance == "full"
    return {"mean": (feature_dim,), "covariance": (feature_dim,) * (2 if square else 1)}


def check_ground(
    settings: MapSettings, arrays: Mapping[str, NDArray[Any]] | None, feature_dim: int, what: str
) -> dict[str, Array]:
    """Return the arrays of the common ground, once they are those of some features.

    Args:
        settings: how features are aligned.
        arrays: what came.
        feature_dim: D.
        what: where they came from, for texts.

    Raises:
        WireError: they are missing or of other names, shapes or types, or no moments are such.
    """
    expect(arrays, ground_shapes(settings, feature_dim), what, np.dtype(np.float64))
    arrays = dict(arrays or {})
    if not all(np.isfinite(value).all() for value in arrays.values()):
        raise WireError(f"{what}: values are not finite")
    if isinstance(settings, Standardise):
        if (arrays["scale"] <= 0).any():
            raise WireError(f"{what}: scale goes down to {arrays['scale'].min():g}; expected numbers above 0")
        return arrays
    reference = Moments(arrays["mean"], arrays["covariance"])
    covariance = reference.covariance
    if (reference.variance < 0).any():
        raise WireError(f"{what}: a variance is {reference.variance.min():g}; expected none below 0")
    if covariance.ndim == 2:
        difference = np.abs(covariance - covariance.T).max(initial=0.0)
        if difference > SUMS_TOLERANCE * np.abs(covariance).max(initial=0.0):
            raise WireError(f"{what}: covariance is not symmetric (largest difference {difference:g})")
    return arrays


@dataclass(frozen=True)
class Reference:
    """Where domains go; its root is taken once for all of them.

    Attributes:
        moments: of the reference.
        regularisation: lambda over the mean variance of the reference.
    """

    moments: Moments
    regularisation: float

    @property
    def added(self) -> float:
        """What is added to each variance."""
        return self.regularisation * float(self.moments.variance.mean())

    @functools.cached_property
    def root(self) -> Array:
        """`(C + lambda I)^(1/2)`, `(D, D)`."""
        return power(self.moments.covariance, self.added, 0.5)


def coral(own: Moments, reference: Reference) -> AffineMap:
    """Return the map of a domain with moments of its own onto a reference."""
    mean, covariance, added = reference.moments.mean, reference.moments.covariance, reference.added
    if added == 0:  # a reference that never varies: everything lands on its mean
        return AffineMap(own.mean, np.zeros_like(own.mean), mean)
    if own.covariance.ndim == 1:
        return AffineMap(own.mean, np.sqrt((covariance + added) / (own.covariance + added)), mean)
    return AffineMap(own.mean, power(own.covariance, added, -0.5) @ reference.root, mean)


def power(covariance: Array, added: float, exponent: float) -> Array:
    """Return `(C + added I)^exponent` of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh(covariance)
    scaled: Array = vectors * (np.maximum(values, 0.0) + added) ** exponent
    return np.asarray(scaled @ vectors.T)
