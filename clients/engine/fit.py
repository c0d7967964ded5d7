"""How well heads fit their clients' own training samples, from padded outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedgraft.evaluation import Objective
from fedgraft.metrics import sample_scores
from fedgraft.models.losses import sample_losses, sample_weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fit:
    """Means over each client's training samples, `(num_clients,)`: of the training loss, and of the score."""

    losses: NDArray[np.float64]
    scores: NDArray[np.float64]


def fit(outputs: torch.Tensor, targets: torch.Tensor, sizes: NDArray[np.int64], objective: Objective) -> Fit:
    """Return how well outputs fit targets.

    Args:
        outputs: `(num_clients, n, C)`, whatever past a client's size.
        targets: `(num_clients, n)` int64 classes for softmax, else `(num_clients, n, C)`.
        sizes: `(num_clients,)` training samples, at least 1.
        objective: the loss, and what the targets are.
    """
    import torch

    real = np.arange(outputs.shape[1]) < sizes[:, None]
    flat_outputs, flat_targets = outputs.flatten(0, 1), targets.flatten(0, 1)
    losses = sample_losses(flat_outputs, flat_targets, objective.loss).double().cpu().numpy()
    one_hot = objective.task == "classes" and flat_targets.dim() == 2
    actual = (flat_targets.argmax(1) if one_hot else flat_targets).cpu().numpy()
    scores = sample_scores(flat_outputs.cpu().numpy(), actual, objective.task)
    weights = sample_weights(flat_targets, objective.loss, torch.float64)
    totals = [np.where(real, value.reshape(real.shape), 0).sum(1) for value in (losses, scores)]
    counted = sizes if weights is None else np.where(real, weights.cpu().numpy().reshape(real.shape), 0).sum(1)
    return Fit(totals[0] / counted, totals[1] / sizes)
