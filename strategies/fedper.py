"""FedPer: clients share an adapter and keep the layer on it.

Arivazhagan, Aggarwal, Singh and Choudhary, "Federated learning with personalization layers", 2019, arXiv:1912.00818,
algorithms 1 and 2: base layers `w_B` are averaged by samples, personalisation layers `w_P` stay with their clients, and
a client trains both together by SGD from where they stand.

Differs from the paper: the backbone is frozen, so that the base is a linear adapter on its features (`head: adapter`)
and the personal part the linear layer on that.
Client half: own_layer, with client state. Replies: `sum`, with the weighted update, which is zero for the layer.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from strategies.base import Answer, Arrays, Half, Outcome, Replies, Request, Strategy, mean_update, moved


class FedPer(Strategy):
    """Clients share an adapter and keep the layer on it, both trained together (Arivazhagan et al., 2019)."""

    answer: ClassVar[Answer] = "own"
    heads: ClassVar[tuple[str, ...]] = ("adapter",)

    name: Literal["fedper"] = "fedper"
    """Clients share an adapter and keep the layer on it; both train together."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one training of the adapter and each client's layer."""
        return (self.personal(state),)

    def personal(self, state: Arrays) -> Request:
        """Return the half whose layers are the clients' own."""
        return Request(Half("own_layer", {"layer_epochs": 0.0}), keeps_state=True)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean update`: the adapter moves, the layer stays as it was at the start."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
