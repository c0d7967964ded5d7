"""Nearest class mean: each sample goes to the class whose mean feature is nearest.

Legate, Bernier, Page-Caccia, Oyallon and Belilovsky, "Guiding the last layer in federated learning with pre-trained
models" (FedNCM), NeurIPS 2023, arXiv:2306.03937, eq. 2: the mean of class c over all clients is the sum of the
clients' summed features of that class over the sum of their counts. The nearest mean in Euclidean distance is the
largest of `m_c . x - |m_c|^2 / 2`, which is a linear head; by angle it is a cosine head whose directions are the means.

Differs from the paper: the linear head has the term `-|m_c|^2 / 2` (the paper normalises means and features instead,
which is what a cosine head does here), and outputs are divided by a temperature.
Client half: none. Replies: statistics, without a second moment.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from strategies.base import Arrays, Exchange, Outcome, Replies, Statistics, Strategy, Task, solved

BEHIND = 10.0
"""How far, in logits, a class that nobody has stays behind the average of the others: it never wins."""


class NearestClassMean(Strategy):
    """Each sample goes to the class of the nearest mean, from one round of sums (FedNCM: Legate et al., 2023)."""

    most_rounds: ClassVar[int | None] = 1
    everybody: ClassVar[bool] = True
    heads: ClassVar[tuple[str, ...]] = ("linear", "cosine")
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)

    name: Literal["ncm"] = "ncm"
    """The nearest class mean, in closed form from one round of sums; a linear head needs its bias."""
    temperature: PositiveFloat = 1.0
    """What a linear head's outputs are divided by; no answer changes."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the class sums."""
        return (Statistics(),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head of the means.

        Raises:
            ValueError: a linear head without a bias came.
        """
        means, present = class_means(replies[0].statistics)
        if "scale" in head:  # cosine: directions only, its scale stays
            return Outcome(solved(head, {**head, "weight": means}), state)
        if "bias" not in head:
            raise ValueError("nearest class mean needs a bias for -|m|^2 / 2; set head.bias: true, or head: cosine")
        bias = -np.square(means).sum(axis=1) / 2
        values = {"weight": means, "bias": bias}
        return Outcome(solved(head, behind(values, present, self.temperature), self.temperature), state)


def class_means(statistics: Arrays) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the means `(C, D)`, of a class that nobody has the mean of the others, and which classes there are."""
    counts = np.asarray(statistics["class_count"])
    present = counts > 0
    means = np.asarray(statistics["class_sum"]) / np.maximum(counts, 1)[:, None]
    if present.any():
        means[~present] = means[present].mean(axis=0)
    return means, present


def behind(values: Arrays, present: NDArray[np.bool_], temperature: float = 1.0) -> dict[str, NDArray[np.float64]]:
    """Return a linear head in which classes that nobody has stay `BEHIND` logits behind the mean of the others."""
    weight, bias = np.array(values["weight"], dtype=np.float64), np.array(values["bias"], dtype=np.float64)
    if present.any():
        weight[~present] = weight[present].mean(axis=0)
        bias[~present] = bias[present].mean() - BEHIND * temperature
    return {"weight": weight, "bias": bias}
