"""Leave-one-client-out: what a host answers to `query.cross_validate`.

Each client's rows are taken out of the pooled moments exactly and its own samples predicted with the heads that
are left; only counts or summed errors leave the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.statistics import rows_a_chunk, statistics_sums
from fedgraft.closed_form import LeaveOut, moment_shapes, predict, regression_moments, regression_targets
from fedgraft.errors import WireError
from fedgraft.models.losses import Task
from fedgraft.wire.records import Arrays, expect
from fedgraft.wire.statistics import SUMS_TOLERANCE


class CrossValidation:
    """Predicts clients' training rows with heads that never saw them, and counts.

    Args:
        features: `(num_samples, feature_dim)` of all samples.
        targets: of all samples.
        task: what the targets are.
        num_outputs: classes, labels or real targets.
        pooled: moments of all clients, as `fedgraft.closed_form` names them.
        lambdas: penalties.
        bias: whether heads have a bias.

    Raises:
        WireError: the moments have other names or shapes or are not those of any samples, or a lambda is too small.
    """

    def __init__(
        self,
        features: NDArray[Any],
        targets: NDArray[Any],
        task: Task,
        num_outputs: int,
        pooled: Arrays | None,
        lambdas: Sequence[float],
        bias: bool,
    ) -> None:
        expect(pooled, moment_shapes(num_outputs, features.shape[1]), "the request's pooled moments")
        self._pooled = {name: np.asarray(value, dtype=np.float64) for name, value in (pooled or {}).items()}
        if self._pooled["count"] < 1 or (np.diag(self._pooled["second_moment"]) < 0).any():
            raise WireError("the request's pooled moments are those of no samples; send the sums of all clients")
        self._features, self._targets = features, targets
        self._task, self._num_outputs = task, num_outputs
        self._num_lambdas = len(lambdas)
        try:
            self._leave_out = LeaveOut(self._pooled, lambdas, bias)
        except ValueError as error:
            raise WireError(f"the request's lambdas: {error}") from error

    def counts(self, clients: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        """Return the sums over all clients, for each lambda.

        Classes: `correct` `(num_lambdas,)` int64, right answers. Labels: the same over all labels of all samples.
        Real: `squared_error` `(num_lambdas, num_outputs)` float64.

        Args:
            clients: each client's training rows.

        Raises:
            WireError: the pooled moments lack some of these rows, or hold one client's rows only.
        """
        self._check_contained(np.concatenate([np.zeros(0, dtype=np.int64), *clients]))
        if self._task == "real":
            errors = np.zeros((self._num_lambdas, self._num_outputs))
            for rows, number, outputs in self._outputs(clients):
                actual = self._targets[rows].reshape(outputs.shape).astype(np.float64)
                errors[number] += np.square(outputs - actual).sum(axis=0)
            return {"squared_error": errors}
        correct = np.zeros(self._num_lambdas, dtype=np.int64)
        for rows, number, outputs in self._outputs(clients):
            actual = self._targets[rows]
            right = outputs.argmax(axis=1) == actual if self._task == "classes" else (outputs > 0) == (actual > 0)
            correct[number] += np.count_nonzero(right)
        return {"correct": correct}

    def _outputs(
        self, clients: Sequence[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], int, NDArray[np.float64]]]:
        """Yield rows of a client, a lambda's number, and the outputs on these rows of the head without the client."""
        for rows in clients:
            if len(rows) == 0:
                continue
            if len(rows) >= self._pooled["count"]:
                raise WireError(
                    f"one client holds all {len(rows):,} samples of the pooled moments, nothing is left without it; "
                    "cross-validation needs at least two clients with samples"
                )
            if self._leave_out.prefers_outputs(len(rows)):
                features = self._features[rows].astype(np.float64)
                self._check_squares(np.square(features).sum(axis=0))
                targets = regression_targets(self._targets[rows], self._task, self._num_outputs)
                for number, outputs in enumerate(self._leave_out.outputs(features, targets)):
                    yield rows, number, outputs
            else:
                yield from self._directly(rows)

    def _directly(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int, NDArray[np.float64]]]:
        """Do the same for a client of many samples, by chunks."""
        sums = statistics_sums(self._features, self._targets, rows, self._task, self._num_outputs, "shared")
        own = regression_moments(sums, self._task)
        self._check_squares(np.diag(own["second_moment"]))
        heads = list(self._leave_out.heads(own))
        step = rows_a_chunk(self._features.shape[1])
        for first in range(0, len(rows), step):
            chunk = rows[first : first + step]
            features = self._features[chunk].astype(np.float64)
            for number, head in enumerate(heads):
                yield chunk, number, predict(head, features)

    def _check_contained(self, rows: NDArray[np.int64]) -> None:
        """Refuse pooled moments of fewer samples than these clients have, in all or of one class or label."""
        came, own = float(self._pooled["count"]), len(rows)
        text = "the request's pooled moments do not contain this host's own samples: "
        action = "; ask for statistics of the same clients first, with this backbone"
        if own > came * (1 + SUMS_TOLERANCE):
            raise WireError(f"{text}they are of {came:g}, these clients have {own:,}{action}")
        if self._task == "real":
            return
        targets, held = self._targets[rows], self._pooled["target_sum"]
        if self._task == "classes":
            counts = np.bincount(targets, minlength=self._num_outputs)
        else:  # from sums of -1 and 1 to how many have the label
            counts, held = np.count_nonzero(targets, axis=0), (held + came) / 2
        lacking = np.flatnonzero(counts > held * (1 + SUMS_TOLERANCE))
        if len(lacking):
            first = int(lacking[0])
            raise WireError(
                f"{text}of output {first} they have {held[first]:g}, these clients {counts[first]:,} "
                f"({len(lacking)} of {self._num_outputs} outputs){action}"
            )

    def _check_squares(self, squares: NDArray[np.float64]) -> None:
        """Refuse pooled moments whose sums of squares, `(feature_dim,)`, are less than one client's own."""
        held = np.diag(self._pooled["second_moment"])
        lacking = np.count_nonzero(squares > held * (1 + SUMS_TOLERANCE))
        if lacking:
            raise WireError(
                f"the request's pooled moments do not contain this host's own samples: of {lacking} of {len(held)} "
                "features a client's sum of squares is larger; ask for statistics with this backbone first"
            )
