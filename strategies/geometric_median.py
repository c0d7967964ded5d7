"""Geometric median (RFA): the head moves by the point whose distances to all updates sum up to the least.

Pillutla, Kakade and Harchaoui, "Robust aggregation for federated learning", IEEE Transactions on Signal Processing
2022, arXiv:1912.13445, algorithm 2 (smoothed Weiszfeld): from `v = 0`, as often as `iterations`,

    beta_k = n_k / max(smoothing, |v - u_k|)
    v <- sum_k beta_k u_k / sum_k beta_k

The server never sees an update: it sends `v`, and gets the two sums. Clients train before the first exchange only.

Differs from the paper: the start is 0, the head that the clients received, so that a huge update has little weight
from the first step on.
Client half: plain. Replies: `sum`, with the updates and the samples, each over its distance from `v`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat

from strategies.base import Arrays, Outcome, Replies, Request, Strategy, moved


class GeometricMedian(Strategy):
    """The point with the least sum of distances to all updates (Pillutla et al., 2022)."""

    name: Literal["geometric-median"] = "geometric-median"
    """The point with the least sum of distances to all updates."""
    iterations: int = Field(default=8, ge=1, le=1000)
    """Steps of Weiszfeld's algorithm in a round, each an exchange of sums; the paper does well with 3."""
    smoothing: PositiveFloat = 1e-6
    """Distances below it count as it, so that an update at the point itself has no infinite weight."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return an exchange for each step; the clients train in the first."""
        first = Request(sums=("near_update",), scalars=("near_weight",), smoothing=self.smoothing)
        return (first, *[replace(first, again=True)] * (self.iterations - 1))

    def completed(self, request: Request, head: Arrays, replies: tuple[Replies, ...]) -> Request:
        """Return a request with the point where the steps so far have come."""
        point = _point(replies[-1]) if replies else {name: np.zeros(np.shape(value)) for name, value in head.items()}
        arrays = {f"point.{name}": np.asarray(value, dtype=np.float32) for name, value in point.items()}
        return replace(request, arrays=arrays)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + geometric median of the updates`."""
        return Outcome(head=moved(head, _point(replies[-1])), state=state)


def _point(replies: Replies) -> dict[str, NDArray[np.float64]]:
    """Return the mean of the updates by their nearness; zeros if nobody had samples."""
    weight, sums = replies.scalars["near_weight"], replies.sums["near_update"]
    return {name: np.asarray(value) / weight if weight > 0 else np.zeros_like(value) for name, value in sums.items()}
