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

from pydantic import PositiveFloat

from fedgraft.recipes import Recipe
from strategies.base import Arrays, Exchange, Outcome, Replies, Statistics, Strategy, Task, solved


class NearestClassMean(Strategy):
    """Each sample goes to the class of the nearest mean, from one round of sums (FedNCM: Legate et al., 2023)."""

    most_rounds: ClassVar[int | None] = 1
    everybody: ClassVar[bool] = True
    leaves_out: ClassVar[Literal["no", "hosts", "server"]] = "hosts"
    heads: ClassVar[tuple[str, ...]] = ("linear", "cosine")
    tasks: ClassVar[tuple[Task, ...]] = ("classes",)

    name: Literal["ncm"] = "ncm"
    """The nearest class mean, in closed form from one round of sums; a linear head needs its bias."""
    temperature: PositiveFloat = 1.0
    """What a linear head's outputs are divided by; no answer changes."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the class sums."""
        return (Statistics(),)

    def recipe(self, head: Arrays, replies: tuple[Replies, ...]) -> Recipe:
        """Return how the head is made of the sums: for a cosine head the directions only, its scale stays."""
        if "scale" in head:
            return Recipe("mean_directions")
        return Recipe("nearest_mean", {"temperature": self.temperature}, self.temperature)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return the head of the means.

        Raises:
            ValueError: a linear head without a bias came.
        """
        if "scale" not in head and "bias" not in head:
            raise ValueError("nearest class mean needs a bias for -|m|^2 / 2; set head.bias: true, or head: cosine")
        values = self.recipe(head, replies).head(replies[0].statistics, replies[0].task)
        return Outcome(solved(head, {**head, **values}), state)
