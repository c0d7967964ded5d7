"""Gaussian mixtures of a client's classes: what a host answers to `query.mixtures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.randomness import key
from fedgraft.wire.mixtures import Covariance, check_mixture_size, mixture_shapes

SAMPLES_A_COMPONENT = 5
"""A class of a client gets at most one component for so many of its samples, and one at least."""

FLOOR = 1e-6
"""What is added to every variance, as a multiple of the mean square of the client's features: none is ever 0."""

_TYPES = {"spherical": "spherical", "diagonal": "diag", "full": "full"}


def num_components(num_samples: int, most: int) -> int:
    """Return how many components a class of so many samples gets: fewer if it is small, never none."""
    return max(1, min(most, num_samples // SAMPLES_A_COMPONENT))


def mixtures(
    features: NDArray[Any],
    targets: NDArray[Any],
    clients: Sequence[NDArray[np.int64]],
    client_keys: NDArray[np.uint64],
    seed: int,
    most_components: int,
    covariance: Covariance,
) -> dict[str, NDArray[Any]]:
    """Return the mixtures of each client's classes, as `mixture_shapes` describes them.

    Args:
        features: `(num_samples, feature_dim)` of all samples.
        targets: classes of all samples.
        clients: each client's training rows.
        client_keys: `(num_clients,)`; a fit starts from a function of seed and client.
        seed: the scenario's.
        most_components: of one class of one client.
        covariance: of each component.

    Raises:
        WireError: they would be too large.
    """
    present = [np.unique(targets[rows], return_counts=True) for rows in clients]
    each = [[num_components(int(count), most_components) for count in counts] for _, counts in present]
    check_mixture_size(sum(map(sum, each)), features.shape[1], covariance)
    parts: dict[str, list[Any]] = {name: [] for name in mixture_shapes(0, features.shape[1], covariance)}
    states = key(seed, "mixture", 0, client_keys) if len(clients) else np.zeros(0, dtype=np.uint64)
    for turn, rows in enumerate(clients):
        own = features[rows].astype(np.float64)
        floor = FLOOR * float(np.square(own).mean()) + 1e-12 if len(rows) else 0.0
        for number, count, most in zip(*present[turn], each[turn], strict=True):
            fit = _fitted(own[targets[rows] == number], most, covariance, floor, int(states[turn] % 2**32))
            for name, value in zip(("share", "mean", "covariance"), fit, strict=True):
                parts[name].append(value.astype(np.float32))
            for name, whole in (("client", turn), ("class", number), ("count", count)):
                parts[name].append(np.full(len(fit[0]), whole, dtype=np.int64))
    empty = mixture_shapes(0, features.shape[1], covariance)
    numbers = ("client", "class", "count")
    return {
        name: np.concatenate([np.zeros(empty[name], np.int64 if name in numbers else np.float32), *values])
        for name, values in parts.items()
    }


def _fitted(
    samples: NDArray[np.float64], components: int, covariance: Covariance, floor: float, state: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return shares, means and covariances of a mixture of some samples, `(num_samples, feature_dim)`."""
    if components == 1:  # in closed form, also for one sample
        mean = samples.mean(axis=0)
        away = samples - mean
        spread: NDArray[np.float64]
        if covariance == "full":
            spread = away.T @ away / len(samples) + floor * np.eye(len(mean))
        else:
            spread = np.square(away).mean(axis=0) + floor
        spread = spread.mean(keepdims=True) if covariance == "spherical" else spread[None]
        return np.ones(1), mean[None], spread
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        components, covariance_type=_TYPES[covariance], reg_covar=floor, random_state=state, max_iter=200
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few samples, many features: near enough is good enough
        mixture.fit(samples)
    return mixture.weights_, mixture.means_, mixture.covariances_
