"""The head that a closed form would have made without one client: what a host answers to `query.leave_out`.

Each client's rows are taken out of the pooled sums exactly; the heads are those of training without the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.statistics import statistics_sums
from fedgraft.closed_form import LeaveOut, regression_moments, regression_targets
from fedgraft.errors import WireError
from fedgraft.models.losses import Task
from fedgraft.recipes import Recipe
from fedgraft.wire.records import Arrays, expect
from fedgraft.wire.statistics import SUMS_TOLERANCE, statistics_shapes


class HeadsWithout:
    """Makes heads without a client.

    Args:
        features: `(num_samples, feature_dim)` of all samples.
        targets: of all samples.
        task: what the targets are.
        num_outputs: classes, labels or real targets.
        pooled: sums over all clients, as the recipe needs them.
        recipe: how a head is made of sums.

    Raises:
        WireError: the sums have other names or shapes.
    """

    def __init__(
        self,
        features: NDArray[Any],
        targets: NDArray[Any],
        task: Task,
        num_outputs: int,
        pooled: Arrays | None,
        recipe: Recipe,
    ) -> None:
        shapes = statistics_shapes(num_outputs, features.shape[1], recipe.second_moment, task)
        expect(pooled, shapes, "the request's pooled sums", np.dtype(np.float64))
        self._pooled = dict(pooled or {})
        self._features, self._targets = features, targets
        self._task, self._num_outputs, self._recipe = task, num_outputs, recipe
        self._whole = self._made(self._pooled, "of all clients")
        self._ridge: LeaveOut | None = None
        if recipe.form == "ridge":
            moments = regression_moments(self._pooled, task)
            self._ridge = LeaveOut(moments, (recipe.parameters["penalty"],), bool(recipe.parameters["bias"]))

    def stack(self, clients: Sequence[NDArray[np.int64]], names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return each array of the head, `(num_clients, *shape)`, without each client in turn.

        Args:
            clients: each client's training rows.
            names: the clients', for the texts of errors.

        Raises:
            WireError: the pooled sums lack some of these rows, or without a client there is no head.
        """
        heads = {name: np.zeros((len(clients), *value.shape), np.float32) for name, value in self._whole.items()}
        for turn, (rows, name) in enumerate(zip(clients, names, strict=True)):
            for part, value in self._without(rows, f"without client {name!r}").items():
                heads[part][turn] = value
        return heads

    def _without(self, rows: NDArray[np.int64], what: str) -> dict[str, NDArray[np.float64]]:
        if not len(rows):
            return self._whole
        if self._ridge is not None and self._ridge.prefers_outputs(len(rows)):
            own = self._features[rows].astype(np.float64)
            self._check_contained(float(len(rows)), what)
            answers = regression_targets(self._targets[rows], self._task, self._num_outputs)
            head = next(self._ridge.heads_without_rows(own, answers))
            return {name: value / self._recipe.temperature for name, value in head.items()}
        second_moment = self._recipe.second_moment
        sums = statistics_sums(self._features, self._targets, rows, self._task, self._num_outputs, second_moment)
        self._check_contained(float(len(rows)), what)
        return self._made({name: value - sums[name] for name, value in self._pooled.items()}, what)

    def _made(self, sums: Arrays, what: str) -> dict[str, NDArray[np.float64]]:
        try:
            return self._recipe.head(sums, self._task)
        except (ValueError, np.linalg.LinAlgError) as error:
            raise WireError(f"{what} there is no {self._recipe.form} head: {error}") from error

    def _check_contained(self, own: float, what: str) -> None:
        """Refuse pooled sums of no more samples than a client has."""
        came = float(np.sum(self._pooled["class_count" if self._task == "classes" else "count"]))
        if own >= came * (1 - SUMS_TOLERANCE):
            raise WireError(
                f"{what} nothing is left: it has {own:g} samples, the pooled sums are of {came:g}; a client can be "
                "left out only of a federation where others have samples too"
            )
