"""Norm clipping: FedAvg whose updates are cut to a largest norm.

Sun, Kairouz, Suresh and McMahan, "Can you really backdoor federated learning?", 2019, arXiv:1911.07963, section 3.2:
`w <- w + sum_k n_k u_k / max(1, |u_k| / max_norm) / sum_k n_k`, with the Euclidean norm over the whole head.

Differs from the paper: `max_norm` is the median of the round's norms unless it is set (no number suits all data); the
noise that the paper may add afterwards is left out.
Client half: plain. Replies: `stack`, weighted by samples as FedAvg.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat

from strategies.base import Arrays, Outcome, Replies, Strategy, moved
from strategies.stacked import clipped, rows_of, unflattened


class NormClipping(Strategy):
    """FedAvg whose updates are cut to a largest norm (Sun et al., 2019)."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Literal["norm-clipping"] = "norm-clipping"
    """FedAvg whose updates are cut to a largest norm."""
    max_norm: PositiveFloat | None = None
    """The largest norm of an update, over all of the head's parameters; null: the median of the round's norms."""

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + weighted mean of the clipped updates`."""
        rows = rows_of(replies[0])
        if not len(rows):
            return Outcome(head=head, state=state)
        short, fraction = clipped(rows, self.max_norm)
        weights = replies[0].weights[replies[0].weights > 0]
        step = weights @ short / weights.sum()
        return Outcome(head=moved(head, unflattened(step, head)), state=state, metrics={"clipped_fraction": fraction})
