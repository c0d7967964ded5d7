"""FedProx: FedAvg whose clients are held near the head that they received.

Li, Sahu, Zaheer, Sanjabi, Talwalkar and Smith, "Federated optimization in heterogeneous networks", MLSys 2020,
arXiv:1812.06127, equation 2: client k minimises `F_k(w) + mu / 2 |w - w_received|^2`; the server averages.

Differs from the paper: all clients of a round take the full number of local steps, and their heads are weighted by
samples (the paper draws clients by them).
Client half: proximal. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class FedProx(Strategy):
    """FedAvg with a proximal term in the clients' loss (Li et al., 2020)."""

    name: Literal["fedprox"] = "fedprox"
    """FedAvg with a proximal term in the clients' loss."""
    mu: NonNegativeFloat = 0.01
    """Weight of the proximal term; 0 is FedAvg. The paper tries 0.001 to 1."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training with the proximal term."""
        return (Request(half=Half("proximal", {"mu": self.mu})),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
