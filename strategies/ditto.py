"""Ditto: beside FedAvg's head each client keeps one of its own, trained and pulled towards the global one.

Li, Hu, Beirami and Smith, "Ditto: fair and robust federated learning through personalization", ICML 2021,
arXiv:2012.04221, algorithm 1: in each round a client trains the received `w` for the server, and its own head by
`v_k <- v_k - eta (grad F_k(v_k) + lambda (v_k - w))`. With lambda 0 that is local-only; the larger lambda, the nearer
the own heads are to the global one.

Differs from the paper: own heads take as many steps as the shared one, over the same batches, with the same optimiser;
a client's own head starts from the first global head that it receives, where the paper starts all at the initial one;
the global head is the sample-weighted mean, the paper's line 7 with equal samples.
Client half: ditto, with client state. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class Ditto(Strategy):
    """FedAvg beside own heads that are pulled towards the global one (Li et al., 2021)."""

    name: Literal["ditto"] = "ditto"
    """FedAvg, and each client keeps a head of its own, trained and pulled towards the global one."""
    pull: NonNegativeFloat = 0.1
    """The paper's lambda: how strongly own heads are pulled towards the global one; 0: not at all."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training of the shared head and each client's own."""
        return (self.personal(state),)

    def personal(self, state: Arrays) -> Request:
        """Return the half whose heads are the clients' own."""
        return Request(Half("ditto", {"pull": self.pull}), keeps_state=True)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
