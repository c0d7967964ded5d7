"""Coordinate trimmed mean: each parameter moves by the mean of the clients' updates of it without the extremes.

Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning: towards optimal statistical rates",
ICML 2018, arXiv:1803.01498, definition 2 and algorithm 1, option II: of n values the `beta n` largest and the
`beta n` smallest are left out.

Differs from the paper: the mean is of updates after local training, the paper's is of gradients; `beta n` is rounded
down.
Client half: plain. Replies: `stack`, unweighted.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from strategies.base import Arrays, Outcome, Replies, Strategy
from strategies.stacked import Matrix, Vector, combined


class TrimmedMean(Strategy):
    """The mean of the clients' updates without the extremes, parameter by parameter (Yin et al., 2018)."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Literal["trimmed-mean"] = "trimmed-mean"
    """The mean of the clients' updates without the extremes, parameter by parameter."""
    fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.2
    """Part of the clients that is left out at each end; at least the part of clients that may lie."""

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Return `head + trimmed mean of the updates`."""
        return combined(self, state, head, replies[0], lambda rows: trimmed_mean(rows, self.fraction))


def trimmed_mean(rows: Matrix, fraction: float) -> Vector:
    """Return the mean of each column without `fraction` of the values at each end, rounded down."""
    num_cut = int(fraction * len(rows))
    ordered = np.sort(rows, axis=0)
    return np.asarray(ordered[num_cut : len(rows) - num_cut].mean(axis=0))
