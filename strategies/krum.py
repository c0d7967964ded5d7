"""Krum: the head moves by the one update that is closest to its neighbours.

Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries: Byzantine tolerant gradient descent",
NeurIPS 2017, arXiv:1703.02757, section 4: with n clients of which f may lie, the score of client k is the sum of the
squared distances from its update to the n - f - 2 closest ones; the update with the least score is taken.

Differs from the paper: it takes updates after local training, the paper gradients; of equal scores that of the
client nearer to all others.
Client half: plain. Replies: `stack`, unweighted.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import NonNegativeInt

from strategies.base import Arrays, Outcome, Replies, Strategy
from strategies.stacked import Matrix, Vector, combined, squared_distances


class Krum(Strategy):
    """The one update that is closest to its neighbours (Blanchard et al., 2017)."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Literal["krum"] = "krum"
    """The one update that is closest to its neighbours."""
    num_malicious: NonNegativeInt = 1
    """How many clients of a round may lie, f; needs at least 2 f + 3 clients a round."""

    def shortage(self, num_clients: int) -> str | None:
        """Return why a round has too few clients, or None."""
        return krum_shortage(self.name, self.num_malicious, num_clients)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + the chosen update`."""
        return combined(self, state, head, replies[0], self._chosen)

    def _chosen(self, rows: Matrix) -> Vector:
        return np.asarray(rows[krum_order(squared_distances(rows), self.num_malicious)[0]])


def krum_scores(distances: NDArray[np.float64], num_malicious: int) -> NDArray[np.float64]:
    """Return each client's sum of squared distances to its `n - f - 2` closest others, at least one if there is one.

    Args:
        distances: `(num_clients, num_clients)` squared distances.
        num_malicious: f.
    """
    num_clients = len(distances)
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    num_closest = min(max(num_clients - num_malicious - 2, 1), num_clients - 1)
    if num_closest < 1:
        return np.zeros(num_clients)
    closest = np.partition(others, num_closest - 1, axis=1)[:, :num_closest]
    return np.asarray(closest.sum(axis=1))


def krum_order(distances: NDArray[np.float64], num_malicious: int) -> NDArray[np.int64]:
    """Return the clients from the least score to the largest.

    Two clients that are each other's only neighbour have one score: the one that is nearer to all comes first, so
    that the order of clients does not decide.
    """
    return np.lexsort((distances.sum(axis=1), krum_scores(distances, num_malicious)))


def krum_shortage(name: str, num_malicious: int, num_clients: int) -> str | None:
    """Return why a round has too few clients for scores that mean something, or None."""
    needed = 2 * num_malicious + 3
    if num_clients >= needed:
        return None
    return (
        f"{name} with num_malicious {num_malicious} needs 2 x {num_malicious} + 3 = {needed} clients with training "
        f"samples in a round, there are {num_clients}; lower num_malicious, or let more clients take part"
    )
