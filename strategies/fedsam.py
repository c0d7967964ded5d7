"""FedSAM: FedAvg whose clients look for flat minima, which serve all of them better than the sharp ones of each.

Qu, Li, Duan, Liu, Tang and Lu, "Generalized federated learning via sharpness aware minimization", ICML 2022,
arXiv:2206.02618, algorithm 1: with the gradient `g` of a batch at `w`, a local step is

    w <- w - eta g(w + rho g / |g|)

where the second gradient is that of the same batch; the server averages. (Caldarola, Caputo and Ciccone, ECCV 2022,
arXiv:2203.11834, propose the same.)

Differs from the paper: updates are weighted by samples (the paper's are not); the server's step is 1 (the paper's
`eta_g` is tuned). Clipping, momentum and weight decay act on the second gradient. The paper's MoFedSAM is not here.
Client half: sharpness. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class FedSAM(Strategy):
    """FedAvg with sharpness-aware local steps (Qu et al., 2022)."""

    name: Literal["fedsam"] = "fedsam"
    """FedAvg whose clients take each gradient a little up the slope, which leads to flatter minima."""
    rho: NonNegativeFloat = 0.05
    """How far up the slope, in the head's parameters; 0 is FedAvg. A step costs two gradients."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training with sharpness-aware steps."""
        return (Request(half=Half("sharpness", {"rho": self.rho})),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
