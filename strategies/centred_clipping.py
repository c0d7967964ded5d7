"""Centred clipping: updates are cut around the last round's aggregate, then averaged.

Karimireddy, He and Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021, arXiv:2012.10333,
algorithm 2 and equation 1: with the last aggregate `v`,

    v <- v + (1 / n) sum_k (u_k - v) min(1, radius / |u_k - v|),  as often as `iterations`
    w <- w + v

Differs from the paper: updates after local training stand for the clients' momenta, so that clients keep nothing;
`radius` is the median distance from the centre unless it is set (no number suits all data).
Client half: plain. Replies: `stack`, unweighted.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from strategies.base import Arrays, Outcome, Replies, Strategy, moved
from strategies.stacked import clipped, rows_of, unflattened


class CentredClipping(Strategy):
    """The mean of updates that are cut around the last aggregate (Karimireddy et al., 2021)."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Literal["centred-clipping"] = "centred-clipping"
    """The mean of updates that are cut around the last aggregate."""
    radius: PositiveFloat | None = None
    """How far an update may be from the centre, over all of the head's parameters; what is beyond is cut. null: the
    median of the updates' distances from it."""
    iterations: PositiveInt = 1
    """How often the centre is moved in a round; 1 in the paper's experiments."""

    def init(self, head: Arrays) -> Arrays:
        """Return the first centre, no update at all."""
        return {name: np.zeros(value.shape) for name, value in head.items()}

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + v` with the new centre `v`."""
        rows = rows_of(replies[0])
        if not len(rows):
            return Outcome(head=head, state=state)
        centre = np.concatenate([state[name].ravel() for name in sorted(state)])
        fraction = 0.0
        for _ in range(self.iterations):
            short, fraction = clipped(rows - centre, self.radius)
            centre = centre + short.mean(axis=0)
        step = unflattened(centre, head)
        return Outcome(head=moved(head, step), state=step, metrics={"clipped_fraction": fraction})
