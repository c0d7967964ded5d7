"""Losses, as functions of a head's outputs and the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import DataError, listed, nearest
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


def resolve_loss(loss: LossSettings, task: Task, label_names: Sequence[str] = ()) -> LossSettings:
    """Return the loss itself, or for `auto` the one that fits the task; class weights in the order of the labels.

    Raises:
        DataError: the loss does not fit the targets, or the class weights do not fit the labels.
    """
    if isinstance(loss, AutoLoss):
        return _AUTOMATIC[task]
    if loss.name not in _FITTING[task]:
        fitting = " or ".join(_FITTING[task])
        raise DataError(f"loss {loss.name!r} does not fit the data's targets ({task}); use {fitting}, or auto")
    if isinstance(loss, SoftmaxLoss) and loss.class_weights is not None:
        return loss.model_copy(update={"class_weights": _ordered(loss.class_weights, label_names)})
    return loss


def _ordered(weights: Mapping[str, float] | tuple[float, ...], label_names: Sequence[str]) -> tuple[float, ...]:
    if isinstance(weights, tuple):
        if len(weights) != len(label_names):
            raise DataError(
                f"loss.class_weights: {len(weights)} weights came, the data have {len(label_names)} classes "
                f"({listed(label_names)}); give one for each, in this order, or a mapping from labels"
            )
        return weights
    unknown = [name for name in weights if name not in label_names]
    if unknown:
        raise DataError(
            f"loss.class_weights: the data have no class {listed(map(repr, unknown))}"
            f"{nearest(unknown[0], label_names)}; they have {listed(label_names)}"
        )
    return tuple(weights.get(name, 1.0) for name in label_names)


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

    Softmax: cross-entropy with label smoothing and class weights, as `torch.nn.functional.cross_entropy`. Sigmoid:
    binary cross-entropy averaged over outputs. Squared: half the squared error summed over outputs, so that its
    gradient is the residual.

    Args:
        outputs: `(num_samples, num_outputs)`.
        targets: as `target_tensor` gives them.
        loss: a resolved loss, not `auto`.
    """
    from torch.nn import functional

    if isinstance(loss, SoftmaxLoss):
        weights = class_weights(loss, outputs)
        return functional.cross_entropy(
            outputs, targets, weights, label_smoothing=loss.label_smoothing, reduction="none"
        )
    if isinstance(loss, SigmoidLoss):
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(dim=1)
    return 0.5 * (outputs - targets).square().sum(dim=1)


def class_weights(loss: LossSettings, like: torch.Tensor) -> torch.Tensor | None:
    """Return the classes' weights, `(num_outputs,)`, of the kind of `like`, or None where all weigh the same."""
    if not isinstance(loss, SoftmaxLoss) or loss.class_weights is None:
        return None
    if isinstance(loss.class_weights, dict):
        raise DataError("class weights by label have no order before the labels are known; see resolve_loss")
    return like.new_tensor(loss.class_weights)


def sample_weights(targets: torch.Tensor, loss: LossSettings, dtype: torch.dtype) -> torch.Tensor | None:
    """Return what each sample counts in a mean, of the shape of `targets`: its class's weight; None where it is 1.

    A mean of losses is their sum divided by the sum of these, as `torch.nn.CrossEntropyLoss` takes it.
    """
    weights = class_weights(loss, targets.new_empty(0, dtype=dtype))
    return None if weights is None else weights[targets]


def mean_loss(losses: torch.Tensor, targets: torch.Tensor, loss: LossSettings) -> torch.Tensor:
    """Return the mean of some samples' losses, as `sample_losses` gives them."""
    weights = sample_weights(targets, loss, losses.dtype)
    return losses.mean() if weights is None else losses.sum() / weights.sum()


def without_smoothing(loss: LossSettings) -> LossSettings:
    """Return the loss that evaluation reports: the same without label smoothing and class weights."""
    return SoftmaxLoss() if isinstance(loss, SoftmaxLoss) else loss
