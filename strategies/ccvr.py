"""Classifier calibration: the head is trained on virtual features, drawn from Gaussians of all clients' classes.

Luo, Chen, Hu, Zhang, Liang and Feng, "No fear of heterogeneity: classifier calibration for federated learning with
non-IID data" (CCVR), NeurIPS 2021, arXiv:2106.05001, section 4.2: from the clients' class means and covariances the
server makes those of all clients together,

    m_c = sum_k n_kc m_kc / n_c        S_c = sum_k (n_kc - 1) / (n_c - 1) S_kc + sum_k n_kc / (n_c - 1) m_kc m_kc^T
                                             - n_c / (n_c - 1) m_c m_c^T

draws as many features of each class from `N(m_c, S_c)`, and trains the classifier on them. Here clients send sums, of
which `S_c = (X_c^T X_c - n_c m_c m_c^T) / (n_c - 1)` is the same matrix, so it does not matter how samples are divided.

Differs from the paper: the covariance may be shared by all classes or diagonal, at a small part of the bytes; training
is by accelerated full gradients (`strategies/virtual_features.py`) instead of SGD; a class of one sample is drawn
without spread.
Client half: none. Replies: statistics, with the second moment by class, shared or diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from fedgraft.class_means import behind, class_means
from strategies.base import Arrays, Exchange, Outcome, Replies, Statistics, Strategy, Task, solved
from strategies.virtual_features import check_draws, trained_on

MOMENTS: dict[str, Literal["per_class", "shared", "diagonal"]] = {
    "full": "per_class",
    "shared": "shared",
    "diagonal": "diagonal",
}
JITTER = 1e-6
"""What is added to a covariance's diagonal, as a multiple of its mean, so that rounding leaves it positive."""


class CCVR(Strategy):
    """A head trained on features drawn from class Gaussians (CCVR: Luo et al., 2021)."""

    most_rounds: ClassVar[int | None] = 1
    everybody: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]] = ("linear",)
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)

    name: Literal["ccvr"] = "ccvr"
    """A head trained by the server on features that it draws from Gaussians of the classes, from one round of sums."""
    covariance: Literal["full", "shared", "diagonal"] = "shared"
    """One of each class, one for all classes, or variances of each class only; `fedgraft check` tells the bytes."""
    samples_per_class: Annotated[int, Field(ge=1, le=100_000)] = 500
    """Features drawn of each class."""
    steps: PositiveInt = 200
    """Gradient steps on the server."""
    weight_decay: NonNegativeFloat = 1e-2
    """Penalty on weights of standardised features."""
    seed: NonNegativeInt = 0
    """Features drawn are a function of it."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the class sums and the second moment."""
        return (Statistics(MOMENTS[self.covariance]),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head, trained from the one that came.

        Raises:
            ValueError: no client has samples, or the virtual ones would be too many.
        """
        statistics = replies[0].statistics
        means, present = class_means(statistics)
        if not present.any():
            raise ValueError("no client has training samples, so there is nothing to draw from")
        found = np.flatnonzero(present)
        check_draws(len(found) * self.samples_per_class, means.shape[1])
        features = np.empty((len(found) * self.samples_per_class, means.shape[1]), dtype=np.float32)
        for turn, (number, spread) in enumerate(zip(found, spreads(statistics, self.covariance), strict=True)):
            draw = np.random.default_rng([self.seed, int(number)]).standard_normal(
                (self.samples_per_class, means.shape[1]), dtype=np.float32
            )
            rows = slice(turn * self.samples_per_class, (turn + 1) * self.samples_per_class)
            features[rows] = (draw * spread if spread.ndim == 1 else draw @ spread.T) + means[number]
        classes = np.repeat(found, self.samples_per_class)
        values = trained_on(head, features, classes, self.steps, self.weight_decay)
        values = behind({"bias": np.zeros(len(means)), **values}, present)
        return Outcome(solved(head, values), state, {"virtual_samples": float(len(features))})


def spreads(statistics: Arrays, covariance: str) -> Iterator[NDArray[np.float32]]:
    """Yield for each class that somebody has what standard normal draws are multiplied by.

    `(D, D)`, a Cholesky factor of the covariance, or `(D,)`, standard deviations.
    """
    means, present = class_means(statistics)
    counts = np.asarray(statistics["class_count"])
    found = np.flatnonzero(present)
    if covariance == "diagonal":
        squares = np.asarray(statistics["square_sum"])
        for number in found:
            variance = (squares[number] - counts[number] * np.square(means[number])) / max(counts[number] - 1, 1)
            yield np.sqrt(np.maximum(variance, 0)).astype(np.float32)
        return
    second = np.asarray(statistics["second_moment"])
    if covariance == "full":
        for number in found:
            scatter = second[number] - counts[number] * np.outer(means[number], means[number])
            yield _root(scatter / max(counts[number] - 1, 1))
        return
    scaled = means[present] * counts[present, None]
    root = _root((second - scaled.T @ means[present]) / max(counts.sum() - len(found), 1))
    for _ in found:
        yield root


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a lower triangle `L` with `L L^T` the covariance, but for `JITTER`; zeros if it is about 0."""
    mean = float(np.trace(covariance)) / len(covariance)
    if not mean > 0:
        return np.zeros(covariance.shape, dtype=np.float32)
    try:
        root: NDArray[Any] = np.linalg.cholesky(covariance + JITTER * mean * np.eye(len(covariance)))
    except np.linalg.LinAlgError:  # a class of few samples far from the origin: rounding is larger than that
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0))
    return root.astype(np.float32)
