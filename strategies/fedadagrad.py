"""FedAdagrad: FedAvg whose server steps as Adagrad does.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan, "Adaptive federated optimization", ICLR 2021,
arXiv:2003.00295, algorithm 2: `v <- v + u^2`, `w <- w + learning_rate u / (sqrt(v) + tau)` with the mean update `u`.

Differs from the paper: the mean is weighted by samples; the first moment's decay is 0, as in the paper's experiments.
Client half: plain. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from strategies.adaptive import adaptive_step, at_rest
from strategies.base import Arrays, Outcome, Replies, Strategy, mean_update


class FedAdagrad(Strategy):
    """FedAvg whose server steps as Adagrad does (Reddi et al., 2021)."""

    name: Literal["fedadagrad"] = "fedadagrad"
    """FedAvg whose server steps as Adagrad does."""
    learning_rate: PositiveFloat = 0.1
    """The server's learning rate: about how far a parameter moves in the first round."""
    tau: PositiveFloat = 1e-3
    """Added to the root of the sum of squares; the larger, the less adaptive."""

    def init(self, head: Arrays) -> Arrays:
        """Return the moments at rest."""
        return at_rest(head, self.tau)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head after Adagrad's step along the mean update."""
        update = mean_update(replies[0])
        return adaptive_step(state, head, update, lambda v, square: v + square, 0.0, self.learning_rate, self.tau)
