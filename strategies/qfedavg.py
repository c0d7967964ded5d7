"""q-FedAvg: clients with a larger loss count more, so that the federation serves them more evenly.

Li, Sanjabi, Beirami and Smith, "Fair resource allocation in federated learning", ICLR 2020, arXiv:1905.10497,
algorithm 2: with the loss `F_k` of the received head on client k's training samples, its update `u_k`, and
`L = 1 / learning rate` of the clients,

    w <- w + sum_k F_k^q L u_k / sum_k (q F_k^(q - 1) L^2 |u_k|^2 + L F_k^q)

Differs from the paper: each client's terms are weighted by its samples, where the paper draws clients by them, so that
q = 0 is FedAvg; a loss of 0 counts as 1e-10.
Client half: plain. Replies: `sum`, with the update, the weight and the curvature, each weighted by powers of the loss.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import NonNegativeFloat

from strategies.base import Arrays, Outcome, Replies, Request, Strategy, moved


class QFedAvg(Strategy):
    """FedAvg in which clients with a larger loss count more (Li et al., 2020)."""

    optimizers: ClassVar[tuple[str, ...]] = ("sgd",)

    name: Literal["qfedavg"] = "qfedavg"
    """FedAvg in which clients with a larger loss count more."""
    q: NonNegativeFloat = 0.2
    """How much more; 0 is FedAvg. The paper takes 0.001 to 5."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training, with sums weighted by powers of the clients' losses."""
        scalars = ("fair_weight", "fair_curvature") if self.q else ("fair_weight",)
        return (Request(sums=("fair_update",), scalars=scalars, loss_power=self.q),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head after q-FedAvg's step."""
        scalars = replies[0].scalars
        total = scalars["fair_weight"] + self.q * scalars.get("fair_curvature", 0.0)
        if total <= 0:
            return Outcome(head=head, state=state)
        step = {name: np.asarray(value) / total for name, value in replies[0].sums["fair_update"].items()}
        return Outcome(head=moved(head, step), state=state)
