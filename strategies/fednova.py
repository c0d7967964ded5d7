"""FedNova: updates are divided by the length of their local path before they are averaged.

Wang, Liu, Liang, Joshi and Poor, "Tackling the objective inconsistency problem in heterogeneous federated
optimization", NeurIPS 2020, arXiv:2007.07481, section 4: with `a_k` the sum of the weights of client k's gradients in
its update `u_k` (the number of its steps under plain SGD; less with a proximal term, more with momentum) and its share
of samples `p_k`,

    w <- w + tau sum_k p_k u_k / a_k,  tau = sum_k p_k a_k

so that clients with more steps do not pull the head to their own optimum.

Differs from the paper: of the values that it allows for tau, the one with which clients of equal paths give FedAvg.
Client half: proximal. Replies: `sum`, with the normalised update, the weight and the path length.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import NonNegativeFloat

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, moved


class FedNova(Strategy):
    """FedAvg of updates that are divided by the length of their local path (Wang et al., 2020)."""

    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)

    name: Literal["fednova"] = "fednova"
    """FedAvg of updates that are divided by the length of their local path."""
    mu: NonNegativeFloat = 0.0
    """Weight of a proximal term in the clients' loss, as FedProx; 0: none."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training, with the normalised update and the path length."""
        half = Half("proximal", {"mu": self.mu})
        return (Request(half=half, sums=("normalised_update",), scalars=("weight", "path_length")),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + tau * mean normalised update`."""
        sums, scalars = replies[0].sums["normalised_update"], replies[0].scalars
        weight = scalars["weight"]
        if weight <= 0:
            return Outcome(head=head, state=state)
        tau = scalars["path_length"] / weight
        step = {name: tau / weight * np.asarray(value) for name, value in sums.items()}
        return Outcome(head=moved(head, step), state=state, metrics={"effective_steps": tau})
