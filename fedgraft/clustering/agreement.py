"""How well clusters agree with classes, from counts by class and cluster; for evaluation only.

Adjusted Rand index: Hubert and Arabie, "Comparing partitions", Journal of Classification 2, 1985. Normalised mutual
information: Strehl and Ghosh, "Cluster ensembles", Journal of Machine Learning Research 3, 2002; normalised by the
arithmetic mean of both entropies, as scikit-learn does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def adjusted_rand(counts: Counts) -> float:
    """Return the adjusted Rand index of counts by class and cluster, `(num_classes, num_clusters)`; 1: the same."""

    def pairs(values: Counts) -> float:
        numbers = values.astype(np.float64)
        return float((numbers * (numbers - 1)).sum() / 2)

    both, of_classes, of_clusters = pairs(counts), pairs(counts.sum(axis=1)), pairs(counts.sum(axis=0))
    total = pairs(counts.sum(keepdims=True))
    expected = of_classes * of_clusters / total if total else 0.0
    most = (of_classes + of_clusters) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def normalised_information(counts: Counts) -> float:
    """Return the mutual information of class and cluster over the mean of their entropies, from 0 to 1."""
    joint = counts / counts.sum()
    of_classes, of_clusters = joint.sum(axis=1), joint.sum(axis=0)
    some = joint > 0
    ratio = joint[some] / np.outer(of_classes, of_clusters)[some]
    shared = float((joint[some] * np.log(ratio)).sum())
    mean = (_entropy(of_classes) + _entropy(of_clusters)) / 2
    return 1.0 if mean == 0 else max(shared / mean, 0.0)


def _entropy(shares: NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def names_of(votes: Counts) -> tuple[int | None, ...]:
    """Return for each cluster the class that most of its few labelled samples have; None where it has none of them.

    Of equal votes the first class counts.
    """
    return tuple(int(column.argmax()) if column.any() else None for column in votes.T)


def named_accuracy(names: tuple[int | None, ...], counts: Counts) -> float | None:
    """Return the share of samples whose cluster bears their class's name; None without samples."""
    total = int(counts.sum())
    right = sum(int(counts[name, cluster]) for cluster, name in enumerate(names) if name is not None)
    return right / total if total else None
