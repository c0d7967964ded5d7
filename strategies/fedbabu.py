"""FedBABU: only the adapter is trained together, under a layer that nobody trains; each client fine-tunes at the end.

Oh, Kim and Yun, "FedBABU: toward enhanced representation for federated image classification", ICLR 2022,
arXiv:2106.06042, algorithm 1: the head stays at its random start for all clients and rounds, the body is averaged; for
evaluation each client fine-tunes the whole model on its own samples.

Differs from the paper: the body is a linear adapter on frozen features (`head: adapter`), and the random head has
orthogonal rows, which the paper's section 4 finds to be what matters in a random one.
Client half: frozen_layer; fine_tune for evaluation. Replies: `sum`, with the weighted update, zero for the layer.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class FedBabu(Strategy):
    """The adapter is trained under a random layer that stays; clients fine-tune at the end (Oh et al., 2022)."""

    heads: ClassVar[tuple[str, ...]] = ("adapter",)

    name: Literal["fedbabu"] = "fedbabu"
    """Clients share an adapter under a random layer that stays; at the end each trains a copy of both."""
    epochs: PositiveInt = 5
    """Passes over the client's training part in fine-tuning, at the optimiser's whole learning rate."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training of the adapter."""
        return (Request(Half("frozen_layer")),)

    def personal(self, state: Arrays) -> Request:
        """Return the half that trains a copy of the head for evaluation."""
        return Request(Half("fine_tune", {"epochs": float(self.epochs)}))

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`: the adapter moves, the layer stays as it was at the start."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
