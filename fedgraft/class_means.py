"""Heads from class means: nearest class mean and linear discriminant, in closed form from sums of features.

Statistics are sums as `query.statistics` answers them for classes: `class_count` `(C,)`, `class_sum` `(C, D)`, and for
the discriminant `second_moment` `(D, D)`. This file imports NumPy only, so that strategies and clients can share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sums = Mapping[str, NDArray[Any]]

BEHIND = 10.0
"""How far, in logits, a class that nobody has stays behind the average of the others: it never wins."""


def class_means(statistics: Sums) -> tuple[Array, NDArray[np.bool_]]:
    """Return the means `(C, D)`, of a class that nobody has the mean of the others, and which classes there are."""
    counts = np.asarray(statistics["class_count"])
    present = counts > 0
    means = np.asarray(statistics["class_sum"]) / np.maximum(counts, 1)[:, None]
    if present.any():
        means[~present] = means[present].mean(axis=0)
    return means, present


def behind(values: Sums, present: NDArray[np.bool_], temperature: float = 1.0) -> dict[str, Array]:
    """Return a linear head in which classes that nobody has stay `BEHIND` logits behind the mean of the others."""
    weight, bias = np.array(values["weight"], dtype=np.float64), np.array(values["bias"], dtype=np.float64)
    if present.any():
        weight[~present] = weight[present].mean(axis=0)
        bias[~present] = bias[present].mean() - BEHIND * temperature
    return {"weight": weight, "bias": bias}


def nearest_mean(statistics: Sums, temperature: float = 1.0) -> dict[str, Array]:
    """Return the linear head whose largest output is the nearest class mean's: `m_c . x - |m_c|^2 / 2`."""
    means, present = class_means(statistics)
    return behind({"weight": means, "bias": -np.square(means).sum(axis=1) / 2}, present, temperature)


def discriminant(statistics: Sums, shrinkage: float) -> dict[str, Array]:
    """Return the linear discriminant's head, whose shared covariance is drawn towards a multiple of the identity.

    Raises:
        ValueError: all samples of each class are alike.
    """
    means, present = class_means(statistics)
    counts = np.asarray(statistics["class_count"])
    total = counts.sum()
    scaled = means[present] * counts[present, None]
    within = (np.asarray(statistics["second_moment"]) - scaled.T @ means[present]) / total
    spread = np.trace(within) / len(within)
    if not spread > 0:
        raise ValueError("all samples of each class have the same features, so there is no covariance; use ncm")
    shrunk = (1 - shrinkage) * within + shrinkage * spread * np.eye(len(within))
    weight = np.linalg.solve(shrunk, means.T).T
    share = np.log(np.maximum(counts, 1) / total)
    return behind({"weight": weight, "bias": share - (weight * means).sum(axis=1) / 2}, present)
