"""Linear discriminant analysis: class means and one covariance that all classes share.

Fisher, "The use of multiple measurements in taxonomic problems", Annals of Eugenics 7, 1936; as a classifier in
Hastie, Tibshirani and Friedman, "The elements of statistical learning", 2nd edition, section 4.3, eq. 4.10: with class
means `m_c`, shares `p_c` and the covariance `S` within classes, `m_c^T S^-1 x - m_c^T S^-1 m_c / 2 + log p_c`. Means,
shares and `S` all come from sums over clients, so the head is that of all samples in one place, to rounding.

Differs from the book: `S` is shrunk towards a multiple of the identity, `(1 - g) S + g trace(S) / D I`, as
scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=g)` does, and divides by n, not n - C.
Client half: none. Replies: statistics with the shared second moment.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from strategies.base import Arrays, Exchange, Outcome, Replies, Statistics, Strategy, Task, solved
from strategies.ncm import behind, class_means


class LinearDiscriminant(Strategy):
    """Class means under one shared covariance, from one round of sums (Fisher, 1936)."""

    most_rounds: ClassVar[int | None] = 1
    everybody: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]] = ("linear",)
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)

    name: Literal["lda"] = "lda"
    """Linear discriminant analysis in closed form from one round of sums; the head needs its bias."""
    shrinkage: Annotated[float, Field(gt=0, le=1)] = 0.1
    """How far the covariance is drawn towards a multiple of the identity; 1: only its trace counts."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the class sums and the shared second moment."""
        return (Statistics("shared"),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the discriminant head.

        Raises:
            ValueError: the head has no bias, or all samples of each class are alike.
        """
        if "bias" not in head:
            raise ValueError("linear discriminant analysis needs a bias; set head.bias: true")
        statistics = replies[0].statistics
        means, present = class_means(statistics)
        counts = np.asarray(statistics["class_count"])
        total = counts.sum()
        scaled = means[present] * counts[present, None]
        within = (np.asarray(statistics["second_moment"]) - scaled.T @ means[present]) / total
        spread = np.trace(within) / len(within)
        if not spread > 0:
            raise ValueError("all samples of each class have the same features, so there is no covariance; use ncm")
        shrunk = (1 - self.shrinkage) * within + self.shrinkage * spread * np.eye(len(within))
        weight = np.linalg.solve(shrunk, means.T).T
        share = np.log(np.maximum(counts, 1) / total)
        values = {"weight": weight, "bias": share - (weight * means).sum(axis=1) / 2}
        return Outcome(solved(head, behind(values, present)), state)
