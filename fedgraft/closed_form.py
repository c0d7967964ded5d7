"""Ridge regression from sums of features: the head in closed form, and the heads that lack one client.

The head minimises, over weights `W` `(num_outputs, feature_dim)` and biases `b`,

    sum_i |y_i - W x_i - b|^2 + lambda |W|^2

so lambda stands on sums, not means, and the bias is a constant feature that is not penalised. With `m` and `t`
the means of features and targets, `S = X^T X - n m m^T` and `R = Y^T X - n t m^T`, it is

    W = R (S + lambda I)^-1        b = t - W m

Everything that enters is a sum over samples: the moments, a dict of float64 arrays of

    count ()   feature_sum (D,)   target_sum (T,)   cross_moment (T, D) = Y^T X   second_moment (D, D) = X^T X

They add up, so the head of a federation equals the pooled one to rounding, under any split; a client is taken out
by subtraction. This file imports NumPy only, so that strategies, server and clients can share it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fedgraft.models.losses import Task

Array = NDArray[np.float64]
Moments = Mapping[str, NDArray[Any]]


def moment_shapes(num_outputs: int, feature_dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of the moments, by name."""
    return {
        "count": (),
        "feature_sum": (feature_dim,),
        "target_sum": (num_outputs,),
        "cross_moment": (num_outputs, feature_dim),
        "second_moment": (feature_dim, feature_dim),
    }


def regression_targets(targets: NDArray[Any], task: Task, num_outputs: int) -> Array:
    """Return the numbers that the head is fitted to, `(num_samples, num_outputs)` float64.

    Classes become one-hot rows, the largest output answers. Labels become -1 and 1, since a head's output above 0
    says that a label is there. Real targets stay.
    """
    if task == "classes":
        rows = np.zeros((len(targets), num_outputs))
        rows[np.arange(len(targets)), targets] = 1.0
        return rows
    if task == "labels":
        return np.where(targets.reshape(len(targets), num_outputs) > 0, 1.0, -1.0)
    return np.asarray(targets, dtype=np.float64).reshape(len(targets), num_outputs)


def regression_moments(statistics: Moments, task: Task) -> dict[str, Array]:
    """Return the moments that `statistics` gave, with targets as `regression_targets` codes them.

    Args:
        statistics: sums as `query.statistics` answers them, with the second moment `shared` or `per_class`.
        task: what the targets are.

    Raises:
        ValueError: there is no second moment.
    """
    sums = {name: np.asarray(value, dtype=np.float64) for name, value in statistics.items()}
    if "second_moment" not in sums:
        came = ", ".join(sorted(sums))
        raise ValueError(f"a ridge head needs the second moment 'shared' or 'per_class'; the statistics have {came}")
    second = sums["second_moment"]
    second = second.sum(axis=0) if second.ndim == 3 else second  # per_class
    if task == "classes":
        count, cross = sums["class_count"], sums["class_sum"]
        moments = {"count": count.sum(), "feature_sum": cross.sum(axis=0), "target_sum": count, "cross_moment": cross}
    else:
        moments = {name: sums[name] for name in ("count", "feature_sum", "target_sum", "cross_moment")}
    if task == "labels":  # 0 and 1 become -1 and 1: every y turns into 2 y - 1
        moments["target_sum"] = 2 * moments["target_sum"] - moments["count"]
        moments["cross_moment"] = 2 * moments["cross_moment"] - moments["feature_sum"]
    return {name: np.asarray(value, dtype=np.float64) for name, value in (moments | {"second_moment": second}).items()}


def without(moments: Moments, part: Moments) -> dict[str, Array]:
    """Return the moments of the samples that are not in `part`; `part` must be among them."""
    return {name: np.asarray(value, dtype=np.float64) - part[name] for name, value in moments.items()}


class Centred(NamedTuple):
    """What a ridge head is solved from: means, and second moments about them (about 0 if there is no bias)."""

    num_samples: float
    feature_mean: Array
    target_mean: Array
    gram: Array
    cross: Array


def centre(moments: Moments, bias: bool = True) -> Centred:
    """Return `S` and `R` of this file's head, with the means; without a bias the means are zeros.

    Raises:
        ValueError: the moments are of no sample.
    """
    count = float(moments["count"])
    if count < 1:
        raise ValueError(f"a ridge head needs at least one sample; the moments are of {count:g}")
    share = 1 / count if bias else 0.0
    feature_mean, target_mean = moments["feature_sum"] * share, moments["target_sum"] * share
    gram = moments["second_moment"] - count * np.outer(feature_mean, feature_mean)
    cross = moments["cross_moment"] - count * np.outer(target_mean, feature_mean)
    return Centred(count, feature_mean, target_mean, gram, cross)


def ridge(moments: Moments, lambda_: float, bias: bool = True) -> dict[str, Array]:
    """Return the ridge head, `weight` `(num_outputs, feature_dim)` and `bias` `(num_outputs,)`, float64.

    Args:
        moments: see the top of this file.
        lambda_: the penalty, above 0; it stands on sums, so it means the same for twice the clients only if doubled.
        bias: fit a bias, which is not penalised; without one the head has the weight only.

    Raises:
        ValueError: lambda is not a number above the sums' rounding, or the moments are of no sample.
    """
    check_lambda(moments, lambda_)
    return _solve(centre(moments, bias), lambda_, bias)


def check_lambda(moments: Moments, lambda_: float) -> None:
    """Refuse a penalty that could not be told from the rounding of the sums.

    Raises:
        ValueError: lambda is not a number above 2.2e-16 of the trace of the second moment.
    """
    trace = float(np.trace(moments["second_moment"]))
    least = np.finfo(np.float64).eps * trace
    if not (np.isfinite(lambda_) and lambda_ > 0 and lambda_ >= least):
        mean = trace / len(moments["second_moment"])
        raise ValueError(
            f"lambda came as {lambda_}; expected a number above 0 and not below {least:.1g}, the rounding of the sums "
            f"(the mean eigenvalue is {mean:.3g}; 1e-3 of it is a usual start)"
        )


def _solve(centred: Centred, lambda_: float, bias: bool) -> dict[str, Array]:
    penalised = centred.gram + lambda_ * np.eye(len(centred.gram))
    weight = np.ascontiguousarray(np.linalg.solve(penalised, centred.cross.T).T)
    if not bias:
        return {"weight": weight}
    return {"weight": weight, "bias": centred.target_mean - weight @ centred.feature_mean}


def predict(head: Moments, features: NDArray[Any]) -> Array:
    """Return a linear head's outputs, `(num_samples, num_outputs)` float64."""
    outputs: Array = np.asarray(features, dtype=np.float64) @ np.asarray(head["weight"], dtype=np.float64).T
    return outputs + head["bias"] if "bias" in head else outputs


def best_lambda(lambdas: Sequence[float], scores: NDArray[Any]) -> float:
    """Return the lambda of the highest score, `(num_lambdas,)`; of equal ones the largest, the smoothest head.

    For squared errors give their negative.
    """
    return max(lambda_ for lambda_, score in zip(lambdas, scores, strict=True) if score == np.max(scores))


class LeaveOut:
    """Heads without one client's samples, from the moments of all: exact, for several lambdas.

    With few samples the inverse is never formed anew (Woodbury): with `Z` the client's rows less the mean, `F` the
    outputs of the head of all and `Y` the targets, the outputs of the head without the client are

        Y - (I - 1/n - Z (S + lambda I)^-1 Z^T)^-1 (Y - F)

    (`1/n` in every place; without a bias it is left out, and the mean is 0.) One eigendecomposition of `S` serves
    all clients and lambdas. With many samples the client's moments are subtracted and each head solved.

    Args:
        moments: of all clients.
        lambdas: penalties, above 0.
        bias: whether heads have a bias.

    Raises:
        ValueError: a lambda is not a number above the sums' rounding, or the moments are of no sample.
    """

    def __init__(self, moments: Moments, lambdas: Sequence[float], bias: bool = True) -> None:
        self.moments = moments
        self.lambdas = tuple(lambdas)
        self.bias = bias
        for lambda_ in self.lambdas:
            check_lambda(moments, lambda_)
        self._centred = centre(moments, bias)

    def prefers_outputs(self, num_samples: int) -> bool:
        """Return whether `outputs` costs less than `heads` for a client: a formula of shapes, never a timing.

        Multiplications; what both have in common, `n D^2`, is left out.
        """
        num_outputs, feature_dim = self.moments["cross_moment"].shape
        woodbury = num_samples**2 * (feature_dim + num_samples / 3 + num_outputs)
        direct = feature_dim**2 * (feature_dim / 3 + num_outputs) + num_samples * feature_dim * num_outputs
        return bool(woodbury <= direct)

    def outputs(self, features: Array, targets: Array) -> Iterator[Array]:
        """Yield for each lambda the outputs on a client's own rows of the head without them.

        Args:
            features: `(num_samples, feature_dim)` float64.
            targets: `(num_samples, num_outputs)`, as `regression_targets` codes them.
        """
        eigenvalues, eigenvectors, cross = self._rotated
        rotated = (features - self._centred.feature_mean) @ eigenvectors
        identity = np.eye(len(features))
        constant = 1 / self._centred.num_samples if self.bias else 0.0
        for lambda_ in self.lambdas:
            root = np.sqrt(eigenvalues + lambda_)
            scaled = rotated / root  # scaled @ scaled.T is Z (S + lambda I)^-1 Z^T
            residuals = targets - self._centred.target_mean - scaled @ (cross / root[:, None])
            yield targets - np.linalg.solve(identity - constant - scaled @ scaled.T, residuals)

    def heads_without_rows(self, features: Array, targets: Array) -> Iterator[dict[str, Array]]:
        """Yield for each lambda the head without a client's rows, by the same identity, for a client of few samples.

        With `A = (I - 1/n - Z (S + lambda I)^-1 Z^T)^-1 (Y - F)`: `W - A^T Z (S + lambda I)^-1`, and at the mean of
        all `t - A^T 1 / n`.

        Args:
            features: `(num_samples, feature_dim)` float64.
            targets: `(num_samples, num_outputs)`, as `regression_targets` codes them.
        """
        eigenvalues, eigenvectors, cross = self._rotated
        centred = self._centred
        rotated = (features - centred.feature_mean) @ eigenvectors
        constant = 1 / centred.num_samples if self.bias else 0.0
        for lambda_ in self.lambdas:
            root = np.sqrt(eigenvalues + lambda_)
            scaled, basis = rotated / root, cross / root[:, None]
            residuals = targets - centred.target_mean - scaled @ basis
            lifted = np.linalg.solve(np.eye(len(features)) - constant - scaled @ scaled.T, residuals)
            weight = ((basis - scaled.T @ lifted) / root[:, None]).T @ eigenvectors.T
            if not self.bias:
                yield {"weight": weight}
                continue
            at_mean = centred.target_mean - constant * lifted.sum(axis=0)
            yield {"weight": weight, "bias": at_mean - weight @ centred.feature_mean}

    @functools.cached_property
    def _rotated(self) -> tuple[Array, Array, Array]:
        """Eigenvalues and eigenvectors of `S`, and `R` in their basis, `(feature_dim, num_outputs)`."""
        eigenvalues, eigenvectors = np.linalg.eigh(self._centred.gram)
        return np.maximum(eigenvalues, 0.0), eigenvectors, eigenvectors.T @ self._centred.cross.T

    def heads(self, part: Moments) -> Iterator[dict[str, Array]]:
        """Yield for each lambda the head without the samples whose moments are `part`."""
        rest = centre(without(self.moments, part), self.bias)
        for lambda_ in self.lambdas:
            yield _solve(rest, lambda_, self.bias)
