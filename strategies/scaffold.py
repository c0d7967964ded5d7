"""SCAFFOLD: clients correct their gradients by what they know of the others'.

Karimireddy, Kale, Mohri, Reddi, Stich and Suresh, "SCAFFOLD: stochastic controlled averaging for federated learning",
ICML 2020, arXiv:1910.06378, algorithm 1: a client steps by `g(w) + c - c_k`; then `w <- w + eta mean_S(w_k - w)` and
`c <- c + |S| / N mean_S(c_k^+ - c_k)`, which keeps `c` the mean of all c_k.

Differs from the paper: clients weigh by their samples, in both. The update is FedAvg's, `sum_S n_k (w_k - w) /
sum_S n_k`, and `c <- c + sum_S n_k (c_k^+ - c_k) / n` with the samples n of the whole federation, so that `c` stays
`sum_k n_k / n c_k`, the gradient of the loss over all samples. Where all heads stand still at w, c_k is the gradient
`g_k(w)` and every client moves by multiples of `c`; so `sum_k n_k g_k(w) = 0`: the optimum of the pooled loss, after
any number of local steps. (With weights in one of the two only, it would be that of another loss.) With equal n_k it
is the paper's. The client's next variate is the mean of its clipped gradients: under plain SGD the paper's option II,
under other optimisers the cleaner definition.
Client half: control_variate. Replies: `sum`, with the weighted update, the weighted change of the variates, and the
weight.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import PositiveFloat

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class Scaffold(Strategy):
    """Clients correct their drift by control variates (Karimireddy et al., 2020)."""

    name: Literal["scaffold"] = "scaffold"
    """Clients correct their drift by control variates, which they keep from round to round."""
    eta: PositiveFloat = 1.0
    """What the mean update is multiplied by, the paper's global step size."""

    def init(self, head: Arrays) -> Arrays:
        """Return the federation's control variate: zeros in float64, `control.<parameter>`."""
        return {f"control.{name}": np.zeros(value.shape) for name, value in head.items()}

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training with control variates."""
        shared = {name: value.astype(np.float32) for name, value in state.items()}
        half = Half("control_variate")
        return (Request(half=half, sums=("update", "control"), arrays=shared, keeps_state=True),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + eta * mean update`, and the control variate moved by its clients' weighted changes."""
        reply = replies[0]
        step = {name: self.eta * value for name, value in mean_update(reply).items()}
        part = 1 / reply.federation_weight if reply.federation_weight > 0 else 0.0
        control = {name: state[f"control.{name}"] + part * value for name, value in reply.sums["control"].items()}
        norm = float(np.sqrt(sum(np.square(value).sum() for value in control.values())))
        named = {f"control.{name}": value for name, value in control.items()}
        return Outcome(head=moved(head, step), state=named, metrics={"control_norm": norm})
