"""Geometric median (RFA): the head moves by the point whose distances to all updates sum up to the least.

Pillutla, Kakade and Harchaoui, "Robust aggregation for federated learning", IEEE Transactions on Signal Processing
2022, arXiv:1912.13445, algorithm 2 (smoothed Weiszfeld): from `v = 0`, as often as `iterations`,

    beta_k = n_k / max(smoothing, |v - u_k|)
    v <- sum_k beta_k u_k / sum_k beta_k

Differs from the paper: the server sees every update; the paper's exchanges of sums hide them from it. The start is
0, the head that the clients received, so that a huge update has little weight from the first step on.
Client half: plain. Replies: `stack`, weighted by samples.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat, PositiveInt

from strategies.base import Arrays, Outcome, Replies, Strategy, moved
from strategies.stacked import Matrix, Vector, rows_of, unflattened


class GeometricMedian(Strategy):
    """The point with the least sum of distances to all updates (Pillutla et al., 2022)."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Literal["geometric-median"] = "geometric-median"
    """The point with the least sum of distances to all updates."""
    iterations: PositiveInt = 8
    """Steps of Weiszfeld's algorithm in a round; the paper does well with 3."""
    smoothing: PositiveFloat = 1e-6
    """Distances below it count as it, so that an update at the point itself has no infinite weight."""

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + geometric median of the updates`."""
        rows = rows_of(replies[0])
        if not len(rows):
            return Outcome(head=head, state=state)
        weights = replies[0].weights[replies[0].weights > 0]
        step = unflattened(weiszfeld(rows, weights, self.iterations, self.smoothing), head)
        return Outcome(head=moved(head, step), state=state)


def weiszfeld(rows: Matrix, weights: NDArray[np.float64], iterations: int, smoothing: float) -> Vector:
    """Return the weighted geometric median of rows, after some steps from 0."""
    point = np.zeros(rows.shape[1])
    for _ in range(iterations):
        distances = np.sqrt(np.square(rows - point).sum(axis=1))
        betas = weights / np.maximum(smoothing, distances)
        point = betas @ rows / betas.sum()
    return point
