"""One-shot transfer of parametric features: a head trained on draws from the clients' Gaussian mixtures.

Beitollahi, Bie, Hemati, Brunswic, Li, Chen and Zhang, "Parametric feature transfer: one-shot federated learning with
foundation models" (FedPFT), 2024, arXiv:2402.01862, algorithm 1: each client fits a mixture of Gaussians to its
features of each class by expectation maximisation and sends it, `(share_j, mean_j, covariance_j)` for j up to K; the
server draws as many features from each mixture as the client has samples of the class, and trains the head on them.

Differs from the paper: a class of few samples at a client gets fewer components, one for every five, and is never left
out; a small part of the features' mean square stands on every variance; training is by accelerated full gradients
(`strategies/virtual_features.py`).
Client half: none. Replies: mixtures of each client's classes.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from fedgraft.class_means import behind
from strategies.base import Arrays, Exchange, Mixtures, Outcome, Replies, Strategy, Task, solved
from strategies.virtual_features import check_draws, trained_on


class FedPFT(Strategy):
    """A head trained on draws from the clients' Gaussian mixtures (FedPFT: Beitollahi et al., 2024)."""

    most_rounds: ClassVar[int | None] = 1
    everybody: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]] = ("linear",)
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)

    name: Literal["fedpft"] = "fedpft"
    """A head trained by the server on draws from Gaussian mixtures, which clients fit to their classes; one round."""
    components: Annotated[int, Field(ge=1, le=100)] = 3
    """Gaussians of one class of one client, at most."""
    covariance: Literal["spherical", "diagonal", "full"] = "diagonal"
    """One variance, one a feature, or a matrix for each Gaussian; `fedgraft check` tells the bytes."""
    draws_per_sample: Annotated[int, Field(ge=1, le=1000)] = 1
    """Features drawn for each sample that a client has."""
    steps: PositiveInt = 200
    """Gradient steps on the server."""
    weight_decay: NonNegativeFloat = 1e-2
    """Penalty on weights of standardised features."""
    seed: NonNegativeInt = 0
    """Features drawn are a function of it."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the mixtures of each client's classes."""
        return (Mixtures(self.components, self.covariance),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head, trained from the one that came.

        Raises:
            ValueError: no client has samples, or the virtual ones would be too many.
        """
        rows = replies[0].statistics
        if not len(rows["class"]):
            raise ValueError("no client has training samples, so there is nothing to draw from")
        features, classes = drawn(rows, self.seed, self.draws_per_sample)
        values = trained_on(head, features, classes, self.steps, self.weight_decay)
        num_classes = len(head["weight"])
        present = np.bincount(classes, minlength=num_classes) > 0
        values = behind({"bias": np.zeros(num_classes), **values}, present)
        return Outcome(solved(head, values), state, {"virtual_samples": float(len(features))})


def drawn(rows: Arrays, seed: int, draws_per_sample: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return features `(num_draws, D)` drawn from the mixtures, and their classes, by client, then class."""
    _, first, number = np.unique(
        np.stack([rows["client"], rows["class"]]), axis=1, return_index=True, return_counts=True
    )
    sizes = rows["count"][first] * draws_per_sample
    check_draws(int(sizes.sum()), rows["mean"].shape[1])
    features = np.empty((int(sizes.sum()), rows["mean"].shape[1]), dtype=np.float32)
    filled = 0
    for start, length, size in zip(first.tolist(), number.tolist(), sizes.tolist(), strict=True):
        generator = np.random.default_rng([seed, int(rows["client"][start]), int(rows["class"][start])])
        shares = rows["share"][start : start + length].astype(np.float64)
        for row, count in enumerate(generator.multinomial(size, shares / shares.sum()).tolist(), start):
            noise = generator.standard_normal((count, features.shape[1]), dtype=np.float32)
            features[filled : filled + count] = rows["mean"][row] + _spread(noise, rows["covariance"][row])
            filled += count
    return features, np.repeat(rows["class"][first], sizes)


def _spread(noise: NDArray[np.float32], covariance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return standard normal rows with a covariance, given as a variance, variances or a matrix."""
    if covariance.ndim < 2:
        return noise * np.sqrt(covariance)
    if not len(noise):
        return noise
    values, vectors = np.linalg.eigh(covariance.astype(np.float64))
    root = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
    return np.asarray(noise @ root.T)
