"""Coordinate median: each parameter moves by the median of the clients' updates of it.

Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning: towards optimal statistical rates",
ICML 2018, arXiv:1803.01498, definition 1 and algorithm 1, option I; of an even number the mean of the middle two.

Differs from the paper: the median is of updates after local training, the paper's is of gradients.
Client half: plain. Replies: `stack`, unweighted.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from strategies.base import Arrays, Outcome, Replies, Strategy
from strategies.stacked import Matrix, Vector, combined


class Median(Strategy):
    """The median of the clients' updates, parameter by parameter (Yin et al., 2018)."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Literal["median"] = "median"
    """The median of the clients' updates, parameter by parameter."""

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + median of the updates`."""
        return combined(self, state, head, replies[0], median)


def median(rows: Matrix) -> Vector:
    """Return the median of each column."""
    return np.asarray(np.median(rows, axis=0))
