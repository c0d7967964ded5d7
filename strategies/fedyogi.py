"""FedYogi: FedAvg whose server steps as Yogi does, whose second moment changes slowly.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan, "Adaptive federated optimization", ICLR 2021,
arXiv:2003.00295, algorithm 2: with the mean update `u`,

    m <- beta_1 m + (1 - beta_1) u
    v <- v - (1 - beta_2) u^2 sign(v - u^2)
    w <- w + learning_rate m / (sqrt(v) + tau)

Differs from the paper: the mean is weighted by samples. As in the paper, and unlike Flower's FedYogi, `v` starts at
`tau^2`.
Client half: plain. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import PositiveFloat

from strategies.adaptive import Decay, adaptive_step, at_rest
from strategies.base import Arrays, Outcome, Replies, Strategy, mean_update


class FedYogi(Strategy):
    """FedAvg whose server steps as Yogi does (Reddi et al., 2021)."""

    name: Literal["fedyogi"] = "fedyogi"
    """FedAvg whose server steps as Yogi does."""
    learning_rate: PositiveFloat = 0.01
    """The server's learning rate: about how far a parameter moves in a round."""
    beta_1: Decay = 0.9
    """Decay of the first moment, the mean of updates."""
    beta_2: Decay = 0.99
    """How slowly the second moment follows the squared updates."""
    tau: PositiveFloat = 1e-3
    """Added to the root of the second moment; the larger, the less adaptive."""

    def init(self, head: Arrays) -> Arrays:
        """Return the moments at rest."""
        return at_rest(head, self.tau)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head after Yogi's step along the mean update."""
        update, beta_2 = mean_update(replies[0]), self.beta_2
        return adaptive_step(
            state,
            head,
            update,
            lambda v, square: v - (1 - beta_2) * square * np.sign(v - square),
            self.beta_1,
            self.learning_rate,
            self.tau,
        )
