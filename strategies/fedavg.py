"""FedAvg: the sample-weighted mean of the clients' updates.

McMahan, Moore, Ramage, Hampson and Aguera y Arcas, "Communication-efficient learning of deep networks from
decentralized data", AISTATS 2017, arXiv:1602.05629, algorithm 1: `w <- sum_k (n_k / n) w_k`, which is
`w + sum_k n_k (w_k - w) / sum_k n_k`.

Differs from the paper: nothing; `n` sums over the clients of the round.
Client half: plain. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import Literal

from strategies.base import Arrays, Outcome, Replies, Strategy, mean_update, moved


class FedAvg(Strategy):
    """The sample-weighted mean of the clients' updates (McMahan et al., 2017)."""

    name: Literal["fedavg"] = "fedavg"
    """The sample-weighted mean of the clients' updates."""

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
