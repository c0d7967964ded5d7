"""Correction of a head for label priors other than those that it was trained under, from counts of its answers.

Lipton, Wang and Smola: Detecting and Correcting for Label Shift with Black Box Predictors, ICML 2018,
arXiv:1802.03916 (BBSE). With `C` `(predicted, true)` the joint distribution of answers and labels where labels are
known, and `mu` the distribution of answers where they are not, both of the same head, the weights `w(y) = q(y) / p(y)`
of the classes there solve

    C w = mu        and the head's posterior becomes    q(y | x) = w(y) p(y | x) / sum_k w(k) p(k | x)

Differs from the paper: the weights correct the answers of the head that there is, instead of training another; those
below `SMALLEST_WEIGHT` are raised to it, so that no class is ruled out; and with a penalty they are those of
regularised learning under label shift (Azizzadenesheli et al., ICLR 2019, arXiv:1903.09734), `w = 1 + theta` with theta
from

    min |C (1 + theta) - mu|^2 + penalty^2 |theta|^2

without its later shrinking of theta.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SMALLEST_WEIGHT = 1e-3
"""A class is taken for a thousand times rarer than it was at most."""


def joint(confusion: NDArray[np.float64] | NDArray[np.int64]) -> Array:
    """Return `C` `(predicted, true)`, whose entries add up to 1, of counts `(true, predicted)`.

    Raises:
        ValueError: there are no counts, or negative ones.
    """
    counts = np.asarray(confusion, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError(f"the counts of answers are no confusion matrix: shape {counts.shape}, expected counts (C, C)")
    if not counts.sum():
        raise ValueError("the counts of answers are all 0; no sample with a label was seen")
    return np.asarray(counts.T / counts.sum())


def condition(confusion: NDArray[np.float64] | NDArray[np.int64]) -> float:
    """Return the condition number of `C`: how much errors of `mu` grow on the way to `w`; infinite if singular."""
    values = np.linalg.svd(joint(confusion), compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > np.finfo(np.float64).eps * values[0] else float("inf")


def label_weights(
    confusion: NDArray[np.float64] | NDArray[np.int64], answers: NDArray[np.int64], penalty: float = 0.0
) -> Array:
    """Return the weight of each class where only the head's answers are known, `(C,)`.

    Args:
        confusion: `(C, C)` counts where labels are known; rows: true class.
        answers: `(C,)` counts of the head's answers where they are not; none at all: nothing is corrected.
        penalty: above 0, weights are pulled towards 1.

    Raises:
        ValueError: the counts are none, or `C` can't be solved and there is no penalty.
    """
    matrix, total = joint(confusion), float(np.sum(answers))
    ones = np.ones(len(matrix))
    if total == 0:
        return ones
    difference = np.asarray(answers, dtype=np.float64) / total - matrix @ ones
    if penalty > 0:
        system = matrix.T @ matrix + penalty**2 * np.eye(len(matrix))
        shift = np.linalg.solve(system, matrix.T @ difference)
    elif np.isinf(condition(confusion)):
        raise ValueError("the counts of answers can't tell the classes apart (a singular matrix); set a penalty")
    else:
        shift = np.linalg.solve(matrix, difference)
    weights: Array = np.maximum(ones + shift, SMALLEST_WEIGHT)
    return weights
