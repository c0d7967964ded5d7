"""Ridge heads of one client: the sums of all clients, in which its own samples weigh more.

With the share `a` of the whole weight, the head minimises over weights `W` and biases `b`

    (1 - a) sum_i |y_i - W x_i - b|^2 + a n / n_k sum_{i of k} |y_i - W x_i - b|^2 + lambda |W|^2

over the n samples of all clients and the n_k of client k: 0 is the ridge head of all samples, 1 that of its own, and
the weights always add up to n, so that lambda means the same. With `S` and `R` of all samples about their mean (see
`fedgraft.closed_form`), the moments about the weighted mean `m(a)` are

    (1 - a) S + V^T V        (1 - a) R + T^T V

where `V` has the rows `sqrt(a n / n_k) (x_i - m(a))` and one more, `sqrt((1 - a) n) (m - m(a))`, and `T` the same of
the targets. In the basis of the eigenvectors of `S` the first part with lambda is a diagonal `d`, so one decomposition
serves all clients and shares, and where `V` has few rows a head costs no more than `n_k^2 D` (Woodbury):

    W = W_0 + (T - V W_0^T)^T (I + V d^-1 V^T)^-1 V d^-1        W_0 = (1 - a) R d^-1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from fedgraft.closed_form import Moments, centre, check_lambda

Array = NDArray[np.float64]

SHARES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
"""What a client chooses from."""


class BlendedRidge:
    """Heads of clients, from the moments of all samples and their own samples.

    Args:
        moments: of all clients, as `fedgraft.closed_form` names them.
        penalty: lambda, above 0.
        bias: whether heads have a bias.

    Raises:
        ValueError: lambda is not a number above the sums' rounding, or the moments are of no sample.
    """

    def __init__(self, moments: Moments, penalty: float, bias: bool = True) -> None:
        check_lambda(moments, penalty)
        self._all, self._penalty, self._bias = centre(moments, bias), penalty, bias
        eigenvalues, self._basis = np.linalg.eigh(self._all.gram)
        self._eigenvalues = np.maximum(eigenvalues, 0.0)
        self._cross = self._all.cross @ self._basis

    def heads(self, features: Array, targets: Array, shares: Sequence[float] = SHARES) -> Iterator[dict[str, Array]]:
        """Yield the head for each share, as `fedgraft.closed_form.ridge` names its arrays.

        Args:
            features: `(num_samples, feature_dim)` of the client, at least one sample where a share is above 0.
            targets: `(num_samples, num_outputs)`, as `regression_targets` codes them.
            shares: of the whole weight that the client's own samples have, from 0 to 1.
        """
        rotated, mean = features @ self._basis, self._all.feature_mean @ self._basis
        for share in shares:
            weight, feature_mean, target_mean = self._solved(rotated, targets, mean, share)
            head = {"weight": weight @ self._basis.T}
            yield head | {"bias": target_mean - weight @ feature_mean} if self._bias else head

    def _solved(self, rotated: Array, targets: Array, mean: Array, share: float) -> tuple[Array, Array, Array]:
        """Return weight and weighted mean in the basis of the eigenvectors, and the weighted mean of the targets."""
        rest = 1 - share
        diagonal = rest * self._eigenvalues + self._penalty
        start = rest * self._cross / diagonal
        if not share:
            return start, mean, self._all.target_mean
        feature_mean, target_mean = mean, self._all.target_mean
        if self._bias:
            feature_mean = rest * mean + share * rotated.mean(axis=0)
            target_mean = rest * target_mean + share * targets.mean(axis=0)
        own, whole = np.sqrt(share * self._all.num_samples / len(rotated)), np.sqrt(rest * self._all.num_samples)
        rows = np.vstack([own * (rotated - feature_mean), whole * (mean - feature_mean)])
        wanted = np.vstack([own * (targets - target_mean), whole * (self._all.target_mean - target_mean)])
        if len(rows) <= len(diagonal):
            inner = np.eye(len(rows)) + (rows / diagonal) @ rows.T
            weight = start + np.linalg.solve(inner, wanted - rows @ start.T).T @ (rows / diagonal)
        else:
            moment = rows.T @ rows
            moment[np.diag_indices_from(moment)] += diagonal
            weight = np.linalg.solve(moment, (rest * self._cross + wanted.T @ rows).T).T
        return weight, feature_mean, target_mean


def crossed_choice(errors: Array) -> NDArray[np.int64]:
    """Return for each validation sample the head that the other half of the samples chooses, `(num_samples,)`.

    So no sample is judged by a head that it chose itself. Halves are samples at even and at odd places; where the other
    half is empty, head 0. Of equally good heads the first is chosen.

    Args:
        errors: `(num_heads, num_samples)`, less is better.
    """
    halves = np.arange(errors.shape[1]) % 2
    chosen = np.zeros(errors.shape[1], dtype=np.int64)
    for half in (0, 1):
        chosen[halves == half] = int(errors[:, halves != half].sum(axis=1).argmin())
    return chosen
