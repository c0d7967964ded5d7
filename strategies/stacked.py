"""What strategies over stacked updates share: every client's update is one row of numbers.

Most of them give no client a weight: one that lies about its update may lie about its size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from strategies.base import Arrays, CombineError, Outcome, Replies, Strategy, moved

Matrix = NDArray[np.float64]
"""`(num_clients, num_parameters)`."""
Vector = NDArray[np.float64]
"""`(num_parameters,)`."""


def rows_of(replies: Replies) -> Matrix:
    """Return the updates of the clients that had samples, one a row, parameters in the order of their names."""
    trained = replies.weights > 0
    parts = [
        value[trained].reshape(int(trained.sum()), int(np.prod(value.shape[1:])))
        for _, value in sorted(replies.stack.items())
    ]
    return np.concatenate(parts, axis=1, dtype=np.float64)


def unflattened(row: Vector, head: Arrays) -> dict[str, NDArray[np.float64]]:
    """Return one row as named arrays of the head's shapes."""
    names = sorted(head)
    cuts = np.cumsum([head[name].size for name in names])[:-1]
    return {name: part.reshape(head[name].shape) for name, part in zip(names, np.split(row, cuts), strict=True)}


def combined(
    strategy: Strategy, state: Arrays, head: Arrays, replies: Replies, rule: Callable[[Matrix], Vector]
) -> Outcome:
    """Return the head moved by what a rule makes of all updates; the head as it is if nobody had samples.

    Raises:
        CombineError: the strategy needs more clients.
    """
    rows = rows_of(replies)
    if not len(rows):
        return Outcome(head=head, state=state)
    shortage = strategy.shortage(len(rows))
    if shortage:
        raise CombineError(shortage)
    return Outcome(head=moved(head, unflattened(rule(rows), head)), state=state)


def squared_distances(rows: Matrix) -> NDArray[np.float64]:
    """Return `(num_clients, num_clients)` squared Euclidean distances between rows."""
    centred = rows - rows.mean(axis=0)  # what rows have in common would cost the differences their digits
    inner = centred @ centred.T
    squares = np.diagonal(inner)
    squared: NDArray[np.float64] = np.maximum(squares[:, None] + squares[None, :] - 2 * inner, 0)
    return squared


def clipped(rows: Matrix, max_norm: float | None) -> tuple[Matrix, float]:
    """Return the rows, none longer than `max_norm` or, for None, the median of their norms; and how many of them were.

    The median is no liar's as long as most are honest. It is the quantile at which adaptive clipping aims (Andrew,
    Thakkar, McMahan and Ramaswamy, NeurIPS 2021, arXiv:1905.03871), here of the rows at hand.
    """
    norms = np.sqrt(np.square(rows).sum(axis=1))
    bound = float(np.median(norms)) if max_norm is None else max_norm
    factors = np.divide(bound, norms, out=np.ones_like(norms), where=norms > bound)
    return rows * factors[:, None], float((norms > bound).mean())
