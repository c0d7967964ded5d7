"""The losses that the dual form trains under, and their gradients by a head's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedgraft.models.loss_settings import LossSettings, SigmoidLoss, SoftmaxLoss
from fedgraft.models.losses import class_weights, sample_losses

if TYPE_CHECKING:
    import torch


def losses_and_gradients(
    outputs: torch.Tensor, targets: torch.Tensor, loss: LossSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each sample's loss, `(num_samples,)`, and its gradient by the outputs, `(num_samples, C)`.

    Softmax: `p - y` with `y = (1 - e) onehot + e / C` under label smoothing `e`; with class weights `v`, `(C,)`,
    `sum(y v) p - y v`. Sigmoid: `(sigmoid - y) / C`. Squared: `f - y`.
    """
    import torch

    losses = sample_losses(outputs, targets, loss)
    if isinstance(loss, SoftmaxLoss):
        return losses, _softmax_gradients(outputs, targets, loss)
    if isinstance(loss, SigmoidLoss):
        return losses, (torch.sigmoid(outputs) - targets) / outputs.shape[1]
    return losses, outputs - targets


def _softmax_gradients(outputs: torch.Tensor, targets: torch.Tensor, loss: SoftmaxLoss) -> torch.Tensor:
    import torch
    from torch.nn import functional

    smoothing, num_outputs = loss.label_smoothing, outputs.shape[1]
    weights = class_weights(loss, outputs)
    one_hot = functional.one_hot(targets, num_outputs).to(outputs.dtype)
    wanted = one_hot * (1 - smoothing) + smoothing / num_outputs
    if weights is None:
        return torch.softmax(outputs, 1) - wanted
    wanted *= weights
    return torch.softmax(outputs, 1) * wanted.sum(1, keepdim=True) - wanted


def into_gradients(
    outputs: torch.Tensor, targets: torch.Tensor, loss: LossSettings, spare: torch.Tensor, losses: torch.Tensor
) -> None:
    """Turn outputs into each sample's gradient by them, in place, and write its loss.

    Samples stand side by side, outputs one above the other: torch's softmax takes half of the time along columns.

    Args:
        outputs: `(C, num_samples)`.
        targets: `(num_samples,)` int64 classes for softmax, else `(num_samples, C)`.
        loss: a resolved loss.
        spare: of the shape of the outputs; what is left there is nobody's.
        losses: `(num_samples,)`.
    """
    import torch

    if not isinstance(loss, SoftmaxLoss) or loss.class_weights is not None:
        found, gradients = losses_and_gradients(outputs.T.contiguous(), targets, loss)
        losses.copy_(found)
        outputs.copy_(gradients.T)
        return
    smoothing, places = loss.label_smoothing, targets[None]
    torch.log_softmax(outputs, 0, out=spare)
    torch.gather(spare, 0, places, out=losses[None])
    losses.neg_()
    torch.exp(spare, out=outputs)
    outputs.scatter_add_(0, places, losses.new_tensor(smoothing - 1).expand_as(places))
    if smoothing:
        losses.mul_(1 - smoothing).sub_(spare.mean(0), alpha=smoothing)
        outputs -= smoothing / outputs.shape[0]
