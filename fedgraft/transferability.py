"""How well features suit a task, before any head is trained: LogME and the shrunk H-score, from sums over samples.

You, Liu, Wang and Long, "LogME: practical assessment of pre-trained models for transfer learning", ICML 2021,
arXiv:2102.11005: the logarithm of the evidence of Bayesian linear regression on the features `F` `(n, D)`, at the
best precisions `alpha` of the weights and `beta` of the noise, by sample:

    (D log alpha + n log beta - log|alpha I + beta F^T F| - beta |y - F m|^2 - alpha |m|^2 - n log 2 pi) / 2n
    m = (F^T F + t I)^-1 F^T y        t = alpha / beta

The precisions come from the fixed point of You, Liu, Zhang, Wang, Jordan and Long, "Ranking and tuning pre-trained
models: a new paradigm for exploiting model hubs", JMLR 23, 2022, arXiv:2110.10545, algorithm 2, with the steps, the
start and the 1e-5 in both denominators of the authors' code (github.com/thuml/LogME). One number for each output
(classes one against the rest), then their mean. Differs from that code where n < D: there its determinant leaves out
the D - n directions that no sample has; here it is the papers', as in their code of 2021.

Ibrahim, Ponomareva and Mazumder, "Newer is not always better: rethinking transferability metrics, their peculiarities,
stability and performance", ECML PKDD 2022, arXiv:2110.06893: `tr(S_a^-1 (1 - a) B)`, with `B` the covariance of the
samples' class means and `S_a = (1 - a) S + a tr(S) / D I` the covariance of the features, shrunk by Ledoit and Wolf, "A
well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate Analysis 88, 2004. Both
covariances divide by n. The intensity `a` needs `sum_i |x_i - mean|^4`, which follows from `sum |x|^4` and
`sum |x|^2 x` beside the moments.

Everything that enters is a sum over samples, so the scores of a federation are the pooled ones to rounding, under any
split. NumPy is all that this needs: torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedgraft.class_means import class_means

if TYPE_CHECKING:
    from fedgraft.models.losses import Task

Array = NDArray[np.float64]
Statistics = Mapping[str, NDArray[Any]]

MOST_STEPS = 11
"""Of the fixed point, as in the authors' code."""

RELATIVE_CHANGE = 1e-3
"""Of `alpha / beta`, below which the fixed point is left."""

GUARD = 1e-5
"""Added to what precisions are divided by."""


class _Outputs(NamedTuple):
    """What LogME needs of the targets, output by output.

    Attributes:
        num_samples: how many.
        squares: `(T,)` sums of squared targets.
        cross: `(T, D)`, `Y^T F`.
    """

    num_samples: float
    squares: Array
    cross: Array


def log_me(statistics: Statistics, task: Task) -> float:
    """Return LogME: the mean over outputs of the largest log evidence by sample; more is better.

    Args:
        statistics: sums as `query.statistics` answers them, with the second moment `shared`.
        task: what the targets are; classes count one against the rest, those without samples not at all.

    Raises:
        ValueError: there are no samples, or all features are 0.
    """
    outputs = _outputs(statistics, task)
    if outputs.num_samples < 1:
        raise ValueError("LogME needs samples; the sums are of none")
    eigenvalues, eigenvectors = np.linalg.eigh(np.asarray(statistics["second_moment"], dtype=np.float64))
    rounding = len(eigenvalues) * np.finfo(np.float64).eps * eigenvalues[-1]
    if eigenvalues[-1] <= 0:
        raise ValueError("LogME needs features that are not all 0")
    inside = eigenvalues > rounding  # beyond the samples' span only rounding is left
    eigenvalues = np.where(inside, eigenvalues, 0.0)
    projected = np.where(inside, outputs.cross @ eigenvectors, 0.0)
    pairs = zip(projected, outputs.squares, strict=True)
    return float(np.mean([_evidence(eigenvalues, row**2, float(square), outputs.num_samples) for row, square in pairs]))


def _outputs(statistics: Statistics, task: Task) -> _Outputs:
    sums = {name: np.asarray(value, dtype=np.float64) for name, value in statistics.items()}
    if task == "classes":
        present = sums["class_count"] > 0
        counts = sums["class_count"][present]
        return _Outputs(float(counts.sum()), counts, sums["class_sum"][present])
    return _Outputs(float(sums["count"]), sums["target_square"], sums["cross_moment"])


def _evidence(eigenvalues: Array, projected: Array, square: float, count: float) -> float:
    """Return the largest log evidence of one output, by sample.

    Args:
        eigenvalues: `(D,)` of `F^T F`.
        projected: `(D,)`, squares of `F^T y` in the basis of its eigenvectors.
        square: `y^T y`.
        count: samples.
    """
    alpha = beta = 1.0
    residual = weights = 0.0
    inside = eigenvalues[eigenvalues > 0]
    outside = max(count - len(inside), 0.0)
    for _ in range(MOST_STEPS):
        before = alpha / beta
        damped = eigenvalues + before
        effective = float((eigenvalues / damped).sum())
        free = outside + float((before / (inside + before)).sum())  # count - effective, also where they nearly agree
        weights = float((projected / damped**2).sum())
        residual = max(square - float((projected * (eigenvalues + 2 * before) / damped**2).sum()), 0.0)
        alpha = effective / (weights + GUARD)
        beta = free / (residual + GUARD)
        if abs(alpha / beta - before) / before <= RELATIVE_CHANGE:
            break
    determinant = float(np.log(alpha + beta * eigenvalues).sum())
    fit = len(eigenvalues) * np.log(alpha) + count * np.log(beta) - determinant
    return float((fit - beta * residual - alpha * weights - count * np.log(2 * np.pi)) / (2 * count))


def h_score(statistics: Statistics) -> float:
    """Return the shrunk H-score; more is better, at most the number of classes less 1.

    Args:
        statistics: sums of classes, with the second moment `shared` and the radial moments.

    Raises:
        ValueError: there are no samples, or all are alike.
    """
    shrinkage = ledoit_wolf(statistics)
    covariance, mean = _covariance(statistics)
    num_features = len(covariance)
    scale = float(np.trace(covariance)) / num_features
    if scale <= 0:
        raise ValueError("the H-score needs samples that are not all alike")
    shrunk = (1 - shrinkage) * covariance + shrinkage * scale * np.eye(num_features)
    counts = np.asarray(statistics["class_count"], dtype=np.float64)
    apart = np.sqrt(counts / counts.sum())[:, None] * (class_means(statistics)[0] - mean)
    return float((1 - shrinkage) * (apart * _solved(shrunk, apart.T).T).sum())


def _solved(matrix: Array, right: Array) -> Array:
    try:
        return np.asarray(np.linalg.solve(matrix, right), dtype=np.float64)
    except np.linalg.LinAlgError:  # nothing was shrunk, and fewer samples than features
        return np.asarray(np.linalg.pinv(matrix, hermitian=True) @ right, dtype=np.float64)


def ledoit_wolf(statistics: Statistics) -> float:
    """Return how far Ledoit and Wolf shrink the features' covariance, from 0 to 1, as scikit-learn computes it.

    Args:
        statistics: sums of classes, with the second moment `shared` and the radial moments.
    """
    covariance, mean = _covariance(statistics)
    count, num_features = float(np.sum(statistics["class_count"])), len(mean)
    second, trace = np.asarray(statistics["second_moment"]), float(np.trace(covariance))
    length = float(mean @ mean)
    fourth = float(statistics["fourth_moment"]) - 4 * float(mean @ statistics["third_moment"])
    fourth += 4 * float(mean @ second @ mean) + 2 * length * float(np.trace(second)) - 3 * count * length**2
    squares = float(np.square(covariance).sum())
    spread = (squares - trace**2 / num_features) / num_features  # about a multiple of the identity
    noise = min((fourth / count - squares) / (num_features * count), spread)
    return noise / spread if noise > 0 else 0.0


def _covariance(statistics: Statistics) -> tuple[Array, Array]:
    """Return the features' covariance, which divides by n, and their mean."""
    count = float(np.sum(statistics["class_count"]))
    if count < 1:
        raise ValueError("a covariance needs samples; the sums are of none")
    mean = np.asarray(statistics["class_sum"], dtype=np.float64).sum(axis=0) / count
    return np.asarray(statistics["second_moment"]) / count - np.outer(mean, mean), mean
