"""Centralised: one head trained on all data in one place. The ceiling of every comparison, and no federation.

Not a federated algorithm: the baseline that gives up privacy. In a simulation the training parts of all clients become
those of one, `everybody`, and their validation parts likewise; it trains by the scenario's own `train` settings, so
that a round is `local_epochs` passes (or `local_steps` steps) of the same optimiser over shuffled batches of all
training samples: `w <- w_everybody`.

Differs from plain training: the optimiser's momentum or moments start anew in every round, as at every client.
Client half: plain. Replies: `sum`, with the weighted update and the weight.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from strategies.base import Arrays, Outcome, Replies, Strategy, mean_update, moved


class Centralised(Strategy):
    """One head trained on all data in one place: the ceiling of every comparison."""

    everybody: ClassVar[bool] = True

    name: Literal["centralised"] = "centralised"
    """One head trained on all data in one place, in simulations: the ceiling of every comparison."""
    data: Literal["pooled"] = "pooled"
    """Where the clients' samples stand: in one place."""

    @property
    def pools(self) -> bool:
        """Whether all clients' data stand in one place."""
        return self.data == "pooled"

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head that everybody's data made."""
        return Outcome(head=moved(head, mean_update(replies[0])), state=state)
