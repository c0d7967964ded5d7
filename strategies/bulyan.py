"""Bulyan: Krum chooses updates one after another, then each parameter moves by the mean of the most central ones.

El Mhamdi, Guerraoui and Rouault, "The hidden vulnerability of distributed learning in Byzantium", ICML 2018,
arXiv:1802.07927, section 4: with n clients of which f may lie, Krum takes one update out of those that are left until
theta = n - 2 f are taken; of these, each parameter averages the beta = theta - 2 f values closest to their median.

Differs from the paper: it takes updates after local training, the paper gradients. (Flower's Bulyan takes the theta
least scores at once; the paper and this score anew after each one taken.)
Client half: plain. Replies: `stack`, unweighted.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from strategies.base import Arrays, Outcome, Replies, Strategy
from strategies.krum import krum_order
from strategies.stacked import Matrix, Vector, combined, squared_distances


class Bulyan(Strategy):
    """Krum's choice, one by one, then a mean around the median, parameter by parameter (El Mhamdi et al., 2018)."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Literal["bulyan"] = "bulyan"
    """Krum's choice, one by one, then a mean around the median, parameter by parameter."""
    num_malicious: NonNegativeInt = 1
    """How many clients of a round may lie, f; needs at least 4 f + 3 clients a round."""

    def shortage(self, num_clients: int) -> str | None:
        """Return why a round has too few clients, or None."""
        needed = 4 * self.num_malicious + 3
        if num_clients >= needed:
            return None
        return (
            f"bulyan with num_malicious {self.num_malicious} needs 4 x {self.num_malicious} + 3 = {needed} clients "
            f"with training samples in a round, there are {num_clients}; lower num_malicious, or let more take part"
        )

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + the mean around the median of the chosen updates`."""
        return combined(self, state, head, replies[0], self._central)

    def _central(self, rows: Matrix) -> Vector:
        num_chosen = len(rows) - 2 * self.num_malicious
        chosen = rows[chosen_by_krum(squared_distances(rows), self.num_malicious, num_chosen)]
        return mean_around_median(chosen, num_chosen - 2 * self.num_malicious)


def chosen_by_krum(distances: NDArray[np.float64], num_malicious: int, num_chosen: int) -> list[int]:
    """Return the clients that Krum takes one after another, each out of those that are left."""
    left = list(range(len(distances)))
    chosen = []
    for _ in range(num_chosen):
        order = krum_order(distances[np.ix_(left, left)], num_malicious)
        chosen.append(left.pop(int(order[0])))
    return chosen


def mean_around_median(rows: Matrix, num_values: int) -> Vector:
    """Return for each column the mean of the values closest to the column's median."""
    closest = np.argsort(np.abs(rows - np.median(rows, axis=0)), axis=0, kind="stable")[:num_values]
    return np.asarray(np.take_along_axis(rows, closest, axis=0).mean(axis=0))
