"""FedRep: clients fit their own layer to the shared adapter first, and then the adapter to their layer.

Collins, Hassani, Mokhtari and Shakkottai, "Exploiting shared representations for personalized federated learning",
ICML 2021, arXiv:2102.07078, algorithm 1: with the received representation fixed a client takes tau steps on its head,
then with its head fixed some on the representation, which the server averages.

Differs from the paper: the representation is a linear adapter on frozen features (`head: adapter`), as in the paper's
theory; the mean is weighted by samples; the head's steps are whole passes.
Client half: own_layer, with client state. Replies: `sum`, with the weighted update, which is zero for the layer.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveInt

from strategies.base import Answer, Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class FedRep(Strategy):
    """Clients train their own layer first, then the shared adapter under it (Collins et al., 2021)."""

    answer: ClassVar[Answer] = "own"
    heads: ClassVar[tuple[str, ...]] = ("adapter",)

    name: Literal["fedrep"] = "fedrep"
    """Clients share an adapter and keep the layer on it; the layer trains first, then the adapter."""
    layer_epochs: PositiveInt = 5
    """Passes over the client's training part for its own layer; those of `train` are for the adapter."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training of each client's layer, then of the adapter."""
        return (self.personal(state),)

    def personal(self, state: Arrays) -> Request:
        """Return the half whose layers are the clients' own."""
        return Request(Half("own_layer", {"layer_epochs": float(self.layer_epochs)}), keeps_state=True)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`: the adapter moves, the layer stays as it was at the start."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
