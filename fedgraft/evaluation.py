"""Evaluation of a head on rows of features: the same code for the server's test part and the clients' parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.metrics import Sums, add_sums, metric_shapes, metric_sums, sample_scores
from fedgraft.models.head_settings import HeadSettings
from fedgraft.models.heads import as_tensors, forward
from fedgraft.models.loss_settings import LossSettings
from fedgraft.models.losses import Task, sample_losses, target_tensor, without_smoothing

ROWS_A_CHUNK = 65_536
"""Rows whose features are in memory at once."""


@dataclass(frozen=True)
class Objective:
    """What a head is and is for: its kind, the resolved loss, what the targets are, and how many outputs."""

    head: HeadSettings
    loss: LossSettings
    task: Task
    num_outputs: int


@dataclass(frozen=True)
class Evaluated:
    """What evaluation of some rows gave.

    Attributes:
        sums: metric sums over all rows (see `fedgraft.metrics`).
        losses: `(num_rows,)`.
        scores: `(num_rows,)`; right or not, share of right labels, or squared error.
    """

    sums: Sums
    losses: NDArray[np.float64]
    scores: NDArray[np.float64]


def evaluate_rows(
    features: NDArray[Any],
    targets: NDArray[Any],
    rows: NDArray[np.int64],
    parameters: Mapping[str, NDArray[Any]],
    objective: Objective,
) -> Evaluated:
    """Return the metrics of a head on the given rows of features `(num_samples, feature_dim)`."""
    import torch

    task, num_outputs = objective.task, objective.num_outputs
    tensors = as_tensors(parameters)
    reported = without_smoothing(objective.loss)
    parts: list[Mapping[str, NDArray[Any]]] = [
        {name: np.zeros(shape) for name, shape in metric_shapes(task, num_outputs).items()}
    ]
    losses, scores = np.zeros(len(rows)), np.zeros(len(rows))
    with torch.inference_mode():
        for first in range(0, len(rows), ROWS_A_CHUNK):
            chunk = rows[first : first + ROWS_A_CHUNK]
            actual = targets[chunk]
            outputs = forward(objective.head, tensors, torch.from_numpy(np.asarray(features[chunk], dtype=np.float32)))
            wanted = target_tensor(actual, task, reported, num_outputs)
            chunk_losses = sample_losses(outputs, wanted, reported).numpy()
            parts.append(metric_sums(outputs.numpy(), actual, chunk_losses, task))
            losses[first : first + len(chunk)] = chunk_losses
            scores[first : first + len(chunk)] = sample_scores(outputs.numpy(), actual, task)
    return Evaluated(add_sums(parts), losses, scores)
