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

from pydantic import Field

from fedgraft.recipes import Recipe
from strategies.base import Arrays, Exchange, Outcome, Replies, Statistics, Strategy, Task, solved


class LinearDiscriminant(Strategy):
    """Class means under one shared covariance, from one round of sums (Fisher, 1936)."""

    most_rounds: ClassVar[int | None] = 1
    everybody: ClassVar[bool] = True
    leaves_out: ClassVar[Literal["no", "hosts", "server"]] = "hosts"
    heads: ClassVar[tuple[str, ...]] = ("linear",)
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)

    name: Literal["lda"] = "lda"
    """Linear discriminant analysis in closed form from one round of sums; the head needs its bias."""
    shrinkage: Annotated[float, Field(gt=0, le=1)] = 0.1
    """How far the covariance is drawn towards a multiple of the identity; 1: only its trace counts."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the class sums and the shared second moment."""
        return (Statistics("shared"),)

    def recipe(self, head: Arrays, replies: tuple[Replies, ...]) -> Recipe:
        """Return how the head is made of the sums."""
        return Recipe("discriminant", {"shrinkage": self.shrinkage})

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the discriminant head.

        Raises:
            ValueError: the head has no bias, or all samples of each class are alike.
        """
        if "bias" not in head:
            raise ValueError("linear discriminant analysis needs a bias; set head.bias: true")
        return Outcome(solved(head, self.recipe(head, replies).head(replies[0].statistics, replies[0].task)), state)
