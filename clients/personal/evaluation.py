"""Each client's own head on its own validation part: products of many clients at once, padded to the longest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.engine.primal import Stacked, stacked_forward
from fedgraft.confidence import confidence_sums
from fedgraft.data.ragged import Ragged
from fedgraft.evaluation import Objective
from fedgraft.metrics import add_sums, metric_shapes, metric_sums, sample_scores
from fedgraft.models.losses import sample_losses, target_tensor, without_smoothing

BYTES_AT_ONCE = 32 * 2**20
"""Padded features and heads of the clients that are evaluated at once."""


class OwnEvaluation:
    """Evaluates own heads, some clients after others.

    Args:
        features: `(num_samples, feature_dim)` of all samples.
        targets: of all samples.
        parts: each client's validation samples, by the federation's positions.
        clients: `(num,)` positions of the clients among the federation's.
        objective: head, loss and task.
        with_confidence: whether to sum also, of classes, how sure the heads are.
    """

    def __init__(
        self,
        features: NDArray[Any],
        targets: NDArray[Any],
        parts: Ragged,
        clients: NDArray[np.int64],
        objective: Objective,
        with_confidence: bool = False,
    ) -> None:
        self._features, self._targets, self._parts, self._clients = features, targets, parts, clients
        self._objective, self._with_confidence = objective, with_confidence and objective.task == "classes"
        shapes = metric_shapes(objective.task, objective.num_outputs, with_confidence)
        self.sums: dict[str, NDArray[np.float64]] = {name: np.zeros(shape) for name, shape in shapes.items()}
        """Metric sums over all samples so far; see `fedgraft.metrics`."""
        self.losses = np.zeros(len(clients))
        """Each client's mean loss; 0 for one without samples."""
        self.scores = np.zeros(len(clients))
        """Each client's mean score; 0 for one without samples."""

    def add(self, turns: NDArray[np.int64], heads_of: Callable[[NDArray[np.int64]], Stacked]) -> None:
        """Evaluate the clients at some places of the list.

        Args:
            turns: places in `clients`.
            heads_of: returns the heads of the clients at some places of `turns`, `(num, *shape)` each.
        """
        import torch

        with torch.inference_mode():
            for places in self._at_once(turns):
                self._add(turns[places], heads_of(places))

    def _at_once(self, turns: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Yield places of clients of like size that fit into memory together; without those that have no samples."""
        sizes = self._parts.counts[self._clients[turns]]
        order = np.argsort(-sizes, kind="stable")
        order = order[sizes[order] > 0]
        first = 0
        while first < len(order):
            rows = int(sizes[order[first]]) + self._objective.num_outputs  # a head is as large as so many samples
            last = first + max(1, BYTES_AT_ONCE // (4 * rows * self._features.shape[1]))
            yield order[first:last]
            first = last

    def _add(self, turns: NDArray[np.int64], heads: Stacked) -> None:
        import torch

        parts = [self._parts.of(int(client)) for client in self._clients[turns]]
        sizes = np.array([len(part) for part in parts])
        real, rows = np.arange(sizes.max()) < sizes[:, None], np.concatenate(parts)
        padded = np.zeros((*real.shape, self._features.shape[1]), dtype=np.float32)
        padded[real] = self._features[rows]
        dtype = next(iter(heads.values())).dtype
        outputs = stacked_forward(self._objective.head, heads, torch.from_numpy(padded).to(dtype))
        self.count(turns, sizes, rows, outputs[torch.from_numpy(real)].numpy())

    def count(
        self, turns: NDArray[np.int64], sizes: NDArray[np.int64], rows: NDArray[np.int64], outputs: NDArray[Any]
    ) -> None:
        """Count outputs of some clients' own heads.

        Args:
            turns: places in `clients`.
            sizes: how many of the rows are each client's, at least one.
            rows: their samples, client after client.
            outputs: `(num_rows, num_outputs)` on these.
        """
        import torch

        task, num_outputs = self._objective.task, self._objective.num_outputs
        reported, actual = without_smoothing(self._objective.loss), self._targets[rows]
        wanted = target_tensor(actual, task, reported, num_outputs)
        losses = sample_losses(torch.from_numpy(outputs), wanted, reported).numpy()
        sums = metric_sums(outputs, actual, losses, task)
        if self._with_confidence:
            sums |= confidence_sums(outputs, actual, reported.name)
        self.sums = add_sums([self.sums, sums])
        owners = np.repeat(np.arange(len(sizes)), sizes)
        self.losses[turns] = np.bincount(owners, losses) / sizes
        self.scores[turns] = np.bincount(owners, sample_scores(outputs, actual, task)) / sizes
