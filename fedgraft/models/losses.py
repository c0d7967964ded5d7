"""Losses, as functions of a head's outputs and the targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import DataError
from fedgraft.models.loss_settings import (
    AutoLoss,
    LossSettings,
    SigmoidLoss,
    SoftmaxLoss,
    SquaredLoss,
)

if TYPE_CHECKING:
    import torch

Task = Literal["classes", "labels", "real"]

_FITTING: dict[Task, tuple[str, ...]] = {
    "classes": ("softmax", "sigmoid", "squared"),
    "labels": ("sigmoid", "squared"),
    "real": ("squared",),
}
_AUTOMATIC: dict[Task, LossSettings] = {
    "classes": SoftmaxLoss(),
    "labels": SigmoidLoss(),
    "real": SquaredLoss(),
}


def resolve_loss(loss: LossSettings, task: Task) -> LossSettings:
    """Return the loss itself, or for `auto` the one that fits the task.

    Raises:
        DataError: the loss does not fit the targets.
    """
    if isinstance(loss, AutoLoss):
        return _AUTOMATIC[task]
    if loss.name not in _FITTING[task]:
        fitting = " or ".join(_FITTING[task])
        raise DataError(f"loss {loss.name!r} does not fit the data's targets ({task}); use {fitting}, or auto")
    return loss


def dense_targets(targets: NDArray[Any], task: Task, num_outputs: int) -> NDArray[np.float32]:
    """Return targets as rows of real numbers, `(num_samples, num_outputs)`; classes become one-hot."""
    if task == "classes":
        rows = np.zeros((len(targets), num_outputs), dtype=np.float32)
        rows[np.arange(len(targets)), targets] = 1
        return rows
    return np.asarray(targets, dtype=np.float32).reshape(len(targets), num_outputs)


def target_tensor(targets: NDArray[Any], task: Task, loss: LossSettings, num_outputs: int) -> torch.Tensor:
    """Return targets as the loss wants them: int64 classes for softmax, float32 rows for the others.

    Several labels under the squared loss are coded -1 and 1, so that an output above 0 is a yes under every loss.
    """
    import torch

    if isinstance(loss, SoftmaxLoss):
        return torch.from_numpy(np.ascontiguousarray(targets, dtype=np.int64))
    rows = dense_targets(targets, task, num_outputs)
    return torch.from_numpy(2 * rows - 1 if task == "labels" and isinstance(loss, SquaredLoss) else rows)


def sample_losses(outputs: torch.Tensor, targets: torch.Tensor, loss: LossSettings) -> torch.Tensor:
    """Return each sample's loss, `(num_samples,)`.

    Softmax: cross-entropy with label smoothing as `torch.nn.functional.cross_entropy`. Sigmoid: binary
    cross-entropy averaged over outputs. Squared: half the squared error summed over outputs, so that its
    gradient is the residual.

    Args:
        outputs: `(num_samples, num_outputs)`.
        targets: as `target_tensor` gives them.
        loss: a resolved loss, not `auto`.
    """
    from torch.nn import functional

    if isinstance(loss, SoftmaxLoss):
        return functional.cross_entropy(outputs, targets, label_smoothing=loss.label_smoothing, reduction="none")
    if isinstance(loss, SigmoidLoss):
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1)
    return 0.5 * (outputs - targets).square().sum(dim=1)


def without_smoothing(loss: LossSettings) -> LossSettings:
    """Return the loss that evaluation reports: the same without label smoothing."""
    return SoftmaxLoss() if isinstance(loss, SoftmaxLoss) else loss
