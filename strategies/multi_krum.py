"""Multi-Krum: the head moves by the mean of the updates with the least Krum scores.

Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries: Byzantine tolerant gradient descent",
NeurIPS 2017, arXiv:1703.02757, section 4 (experiments): the mean of the m updates with the least scores.

Differs from the paper: it takes updates after local training, the paper gradients. (Flower's MultiKrum weighs the
chosen updates by samples; the paper and this don't.)
Client half: plain. Replies: `stack`, unweighted.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from strategies.base import Arrays, Outcome, Replies, Strategy
from strategies.krum import krum_order, krum_shortage
from strategies.stacked import Matrix, Vector, combined, squared_distances


class MultiKrum(Strategy):
    """The mean of the updates that are closest to their neighbours (Blanchard et al., 2017)."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Literal["multi-krum"] = "multi-krum"
    """The mean of the updates that are closest to their neighbours."""
    num_malicious: NonNegativeInt = 1
    """How many clients of a round may lie, f; needs at least 2 f + 3 clients a round."""
    num_selected: PositiveInt | None = None
    """How many updates are averaged, m; default: all but f. 1 is Krum."""

    def shortage(self, num_clients: int) -> str | None:
        """Return why a round has too few clients, or None."""
        if self.num_selected is not None and self.num_selected > num_clients:
            return (
                f"{self.name} is to average num_selected {self.num_selected} updates, there are {num_clients} clients "
                "with training samples in a round; lower num_selected, or let more clients take part"
            )
        return krum_shortage(self.name, self.num_malicious, num_clients)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + mean of the chosen updates`."""
        return combined(self, state, head, replies[0], self._mean_of_chosen)

    def _mean_of_chosen(self, rows: Matrix) -> Vector:
        order = krum_order(squared_distances(rows), self.num_malicious)
        return np.asarray(rows[order[: self.num_selected or len(rows) - self.num_malicious]].mean(axis=0))
