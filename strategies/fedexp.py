"""FedExP: FedAvg whose server takes longer steps the more the updates disagree.

Jhunjhunwala, Wang and Joshi, "FedExP: speeding up federated averaging via extrapolation", ICLR 2023, arXiv:2301.09604,
section 3: with the updates `u_k`, their mean `u` and the mean of their squares,

    w <- w + max(1, sum_k p_k |u_k|^2 / (2 (|u|^2 + epsilon))) u

Differs from the paper: means are weighted by samples (the paper's are not); the paper's last head is the mean of the
last two, since steps this long go to and fro around the optimum: take a larger epsilon where that hurts.
Client half: plain. Replies: `sum`, with the weighted update, the weight and the weighted squared norms.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import PositiveFloat

from strategies.base import Arrays, Outcome, Replies, Request, Strategy, mean_update, moved


class FedExP(Strategy):
    """FedAvg with a server step that grows as the updates disagree (Jhunjhunwala et al., 2023)."""

    name: Literal["fedexp"] = "fedexp"
    """FedAvg with a server step that grows as the updates disagree."""
    epsilon: PositiveFloat = 1e-3
    """Added to the squared norm of the mean update; the larger, the shorter the steps near the optimum."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training, with the squared norms of the updates."""
        return (Request(scalars=("weight", "square_norm")),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + extrapolation * mean update`."""
        update, scalars = mean_update(replies[0]), replies[0].scalars
        mean_square = scalars["square_norm"] / scalars["weight"] if scalars["weight"] > 0 else 0.0
        square = float(sum(np.square(value).sum() for value in update.values()))
        extrapolation = max(1.0, mean_square / (2 * (square + self.epsilon)))
        step = {name: extrapolation * value for name, value in update.items()}
        return Outcome(head=moved(head, step), state=state, metrics={"extrapolation": extrapolation})
