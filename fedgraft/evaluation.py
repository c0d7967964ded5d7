"""Evaluation of a head on rows of features: the same code for the server's test part and the clients' parts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.confidence import confidence_sums
from fedgraft.metrics import Sums, add_sums, metric_shapes, metric_sums, sample_scores
from fedgraft.models.head_settings import HeadSettings
from fedgraft.models.heads import as_tensors, forward
from fedgraft.models.loss_settings import LossSettings
from fedgraft.models.losses import Task, sample_losses, target_tensor, without_smoothing
from fedgraft.threads import in_order

if TYPE_CHECKING:
    import torch

    from fedgraft.models.blocks import Blocks

ROWS_A_CHUNK = 4096
"""Rows whose features are in memory at once: of 1,280 float32 features 21 MB; 65,536 took no less time."""

ACTIVATIONS_A_CHUNK = 64
"""Rows that are evaluated at once where they go through blocks of the backbone."""


@dataclass(frozen=True)
class Objective:
    """What a head is and is for: its kind, the resolved loss, what the targets are, and how many outputs.

    With `blocks` what goes in are activations at an earlier cut, and blocks of the backbone lie before the head.
    """

    head: HeadSettings
    loss: LossSettings
    task: Task
    num_outputs: int
    blocks: Blocks | None = None
    offset: tuple[float, ...] | None = None
    """What is added to the outputs: logarithms of how much more frequent classes are than in training."""

    def outputs(
        self, parameters: Mapping[str, torch.Tensor], inputs: torch.Tensor, training: bool = False
    ) -> torch.Tensor:
        """Return outputs `(num_samples, num_outputs)` of features, or of activations where there are blocks."""
        features = inputs if self.blocks is None else self.blocks.features(parameters, inputs, training)
        outputs = forward(self.head, parameters, features)
        return outputs if self.offset is None else outputs + outputs.new_tensor(self.offset)

    @property
    def rows_a_chunk(self) -> int:
        """Rows that are evaluated at once."""
        return ROWS_A_CHUNK if self.blocks is None else ACTIVATIONS_A_CHUNK


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
    threads: int = 1,
    device: torch.device | None = None,
    with_confidence: bool = False,
) -> Evaluated:
    """Return the metrics of a head on the given rows of features `(num_samples, feature_dim)`, or of activations.

    Chunks of rows are evaluated side by side by some threads, on whose number no bit depends. With confidence the sums
    also say, of classes, how sure the head was; that costs more than the rest of them.
    """
    shapes = metric_shapes(objective.task, objective.num_outputs, with_confidence)
    empty = {name: np.zeros(shape) for name, shape in shapes.items()}
    at_once = objective.rows_a_chunk
    chunks = (rows[first : first + at_once] for first in range(0, len(rows), at_once))
    evaluate = functools.partial(_evaluate_chunk, features, targets, parameters, objective, device, with_confidence)
    jobs = (functools.partial(evaluate, chunk) for chunk in chunks)
    parts = [Evaluated(empty, np.zeros(0), np.zeros(0)), *in_order(jobs, threads)]
    losses, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("losses", "scores"))
    return Evaluated(add_sums([part.sums for part in parts]), losses, scores)


def _evaluate_chunk(
    features: NDArray[Any],
    targets: NDArray[Any],
    parameters: Mapping[str, NDArray[Any]],
    objective: Objective,
    device: torch.device | None,
    with_confidence: bool,
    rows: NDArray[np.int64],
) -> Evaluated:
    import torch

    task, actual, reported = objective.task, targets[rows], without_smoothing(objective.loss)
    inputs = torch.from_numpy(np.asarray(features[rows], dtype=np.float32)).to(device)
    head = {name: value.to(device) for name, value in as_tensors(parameters).items()}
    with torch.inference_mode():
        outputs = objective.outputs(head, inputs)
        wanted = target_tensor(actual, task, reported, objective.num_outputs).to(device)
        losses = sample_losses(outputs, wanted, reported).double().cpu().numpy()
    values = outputs.cpu().numpy()
    sums = metric_sums(values, actual, losses, task)
    if with_confidence and task == "classes":
        sums |= confidence_sums(values, actual, objective.loss.name)
    return Evaluated(sums, losses, sample_scores(values, actual, task))
