"""Ridge within classes, whose covariances are estimated from the clients' class means alone.

Goswami, Magistri, Wang, Twardowski, Bagdanov and van de Weijer, "Covariances for free: exploiting mean distributions
for training-free federated learning" (FedCOF), NeurIPS 2025, arXiv:2412.14326. Client k's mean `m_kc` of its `n_kc`
samples of class c varies around the class mean `m_c` with covariance `S_c / n_kc`, so over the `K_c` clients that have
the class

    S_c = 1 / (K_c - 1) sum_k n_kc (m_kc - m_c)(m_kc - m_c)^T

is an unbiased estimate if samples are divided at random within classes, and costs no more bytes than means do. The
head is `W = B G^-1` with the class sums `B`, `G = sum_c (N_c - 1)(S_c + gamma I) + N m m^T`, where `m` is the mean of
all `N` samples; each class's weight is brought to one length. Scatter between classes is left out of `G`.

Differs from the paper: gamma is a multiple of the mean variance within classes, so that it means the same for features
of any scale; weights come to their mean length, not to 1, and are divided by a temperature, which changes no answer.
Each client gives one mean a class, as in the authors' own code; several of one client, for federations of few clients,
would reveal more of its samples and are not asked for.
Client half: none. Replies: class sums of each client.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from fedgraft.class_means import behind
from strategies.base import Arrays, ClassSums, Exchange, Outcome, Replies, Strategy, Task, solved


class FedCOF(Strategy):
    """Ridge within classes, from class means of each client alone (Goswami et al., 2025)."""

    most_rounds: ClassVar[int | None] = 1
    everybody: ClassVar[bool] = True
    leaves_out: ClassVar[Literal["no", "hosts", "server"]] = "server"
    heads: ClassVar[tuple[str, ...]] = ("linear", "cosine")
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)

    name: Literal["fedcof"] = "fedcof"
    """Covariances estimated from clients' class means, in closed form from one round; needs many clients a class."""
    gamma: PositiveFloat = 1.0
    """What is added to the diagonal of each class's covariance, as a multiple of the mean variance within classes."""
    temperature: PositiveFloat = 0.1
    """What a linear head's outputs are divided by, so that they make probabilities; no answer changes."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the class sums of each client."""
        return (ClassSums(),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head of the estimated covariances.

        Raises:
            ValueError: no class is at two clients, so that no covariance can be estimated.
        """
        counts, sums, scatter = within_classes(replies[0].statistics, len(head["weight"]))
        present, total, feature_dim = counts > 0, counts.sum(), sums.shape[1]
        freedom = np.maximum(counts - 1, 0).sum()
        variance = np.trace(scatter) / (feature_dim * max(freedom, 1))
        if not variance > 0:
            raise ValueError("no class has differing means at two clients, so there is no covariance; use ncm")
        mean = sums.sum(axis=0) / total
        gram = scatter + freedom * self.gamma * variance * np.eye(feature_dim) + total * np.outer(mean, mean)
        weight = np.linalg.solve(gram, sums.T).T
        lengths = np.linalg.norm(weight, axis=1)
        weight *= (lengths[present].mean() / np.maximum(lengths, 1e-300))[:, None]
        values = behind({"weight": weight, "bias": np.zeros(len(weight))}, present, self.temperature)
        if "scale" in head:  # cosine: directions only, its scale stays
            return Outcome(solved(head, {**head, "weight": values["weight"]}), state, {"variance": float(variance)})
        return Outcome(solved(head, values, self.temperature), state, {"variance": float(variance)})


def within_classes(
    rows: Arrays, num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return `N_c` `(C,)`, the class sums `(C, D)`, and `sum_c (N_c - 1) S_c` `(D, D)`, of the clients' class sums.

    Of a class at one client only, `S_c` is 0.
    """
    classes, sizes, own = rows["class"], np.asarray(rows["count"], dtype=np.float64), np.asarray(rows["class_sum"])
    counts: NDArray[np.float64] = np.bincount(classes, sizes, num_classes).astype(np.float64)
    sums = np.zeros((num_classes, own.shape[1]))
    np.add.at(sums, classes, own)
    means = sums / np.maximum(counts, 1)[:, None]
    num_clients = np.bincount(classes, minlength=num_classes)
    factor = np.maximum(counts - 1, 0) / np.maximum(num_clients - 1, 1)
    spread = (own / sizes[:, None] - means[classes]) * np.sqrt(sizes * factor[classes])[:, None]
    return counts, sums, spread.T @ spread
