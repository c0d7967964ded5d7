"""FedDyn: clients bend their losses, so that all of their minima come to lie at the federation's.

Acar, Zhao, Matas Navarro, Mattina, Whatmough and Saligrama, "Federated learning based on dynamic regularization",
ICLR 2021, arXiv:2111.04263, algorithm 1: client k minimises `L_k(w) - <h_k, w> + alpha / 2 |w - w_start|^2` and then
keeps `h_k <- h_k - alpha (w_k - w_start)`, the gradient of its loss at its minimum; the server has
`h <- h - alpha / m sum_S (w_k - w)` and `w <- mean_S w_k - h / alpha`.

Differs from the paper: clients take some local steps towards their minimum, and weigh by their samples, in both means:
`h <- h - alpha sum_S n_k (w_k - w) / n` with the samples n of the whole federation, so that `h` stays
`sum_k n_k / n h_k`. Where all heads stand still, h is 0 and h_k is the gradient of client k's loss: so
`sum_k n_k g_k(w) = 0`, the optimum of the pooled loss, after any number of local steps. With equal n_k it is the
paper's. There is no weight decay: with it h_k would not be a gradient.
Client half: dynamic. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class FedDyn(Strategy):
    """Clients bend their losses towards the federation's optimum (Acar et al., 2021)."""

    takes_weight_decay: ClassVar[bool] = False

    name: Literal["feddyn"] = "feddyn"
    """Clients bend their losses by what they keep from round to round, so that their minima meet."""
    alpha: PositiveFloat = 0.1
    """How strongly a client is held to the head that it received; the paper takes 0.001 to 0.1."""

    def init(self, head: Arrays) -> Arrays:
        """Return the server's h: zeros in float64, `h.<parameter>`."""
        return {f"h.{name}": np.zeros(value.shape) for name, value in head.items()}

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training on bent losses."""
        return (Request(half=Half("dynamic", {"mu": self.alpha}), keeps_state=True),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update - h / alpha` with the new h; the head as it is if nobody had samples."""
        reply = replies[0]
        if not reply.scalars["weight"]:
            return Outcome(head=head, state=state)
        part = self.alpha / reply.federation_weight
        h = {name: state[f"h.{name}"] - part * np.asarray(value) for name, value in reply.sums["update"].items()}
        step = {name: value - h[name] / self.alpha for name, value in mean_update(reply).items()}
        norm = float(np.sqrt(sum(np.square(value).sum() for value in h.values())))
        return Outcome(
            head=moved(head, step), state={f"h.{name}": value for name, value in h.items()}, metrics={"h_norm": norm}
        )
