"""The dual form: linear heads under the SGD family, trained in the span of each client's features.

A step of SGD adds to the head a combination of the batch's features, so a head that starts at `W0` stays in
`W = s W0 + A^T X`: `X` `(n, D)` are the client's features, `A` `(n, C)` its coefficients and `s` a scalar that
moves only under weight decay or a proximal term. Momentum's velocity has the same form. With the Gram matrix
`K = X X^T`, computed once, a step costs `batch x n x C` instead of `batch x D x C`, and the iterates are the
same. The bias is the weight of a constant feature, so `K` has 1 added.

A control variate adds the same `d = c - B^T X` to every gradient: `c` is the federation's, `B` `(n, C)` the
coefficients of the client's own. So `W = s W0 + t d + A^T X` with one scalar more, and the outputs of `d` are computed
once. A proximal term towards another head `W1` than the start moves `t` too, with `d = W1`.

The client's next control variate is the mean of its clipped gradients, which lie in the span: `n C` numbers.

Clipping needs the gradient's norm, whose square is `trace(R^T K_bb R)` for the batch's residuals `R`. A step that
climbs before it takes its gradient stays in the span too: up there the batch's outputs are more by `rho K_bb R / |g|`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from clients.engine.batches import Steps
from clients.settings import Sgd
from clients.training import ASCENT_EPSILON
from fedgraft.devices import numpy_is_faster
from fedgraft.models.loss_settings import LossSettings, SigmoidLoss, SoftmaxLoss
from fedgraft.models.losses import class_weights, sample_losses, sample_weights

if TYPE_CHECKING:
    import torch

CLIP_EPSILON = 1e-6
"""What `torch.nn.utils.clip_grad_norm_` adds to the norm."""


@dataclass(frozen=True)
class DualControl:
    """The control variates of a bucket, for clients in its order.

    Attributes:
        outputs: `(num_clients, n, C)` of the federation's, bias included.
        own: `(num_clients, n, C)`, the `B` above; zero in rows past a client's size.
    """

    outputs: torch.Tensor
    own: torch.Tensor


@dataclass(frozen=True)
class DualResult:
    """What the training of a bucket gave, for clients in its order: heads `scale W0 + shift d + coefficients^T X`.

    `d` is the federation's control variate `c`, or the head that the proximal term pulls to.

    Attributes:
        scale: `(num_clients,)`, the `s` above.
        coefficients: `(num_clients, n, C)`, `A - t B` above; zero in rows past a client's size.
        loss_sums: `(num_clients,)` losses summed over the samples of all steps, each before its step.
        seen: `(num_clients,)` samples of all steps.
        shift: `(num_clients,)`, the `t` above; None without control variates and without such a pull.
        gradients: `(num_clients, n, C)` coefficients of the mean over the steps of the clipped gradients of the loss,
            the next `B`; None without control variates.
    """

    scale: torch.Tensor
    coefficients: torch.Tensor
    loss_sums: torch.Tensor
    seen: torch.Tensor
    shift: torch.Tensor | None = None
    gradients: torch.Tensor | None = None


def train_dual(
    gram: torch.Tensor,
    start: torch.Tensor,
    targets: torch.Tensor,
    steps: Steps,
    optimizer: Sgd,
    learning_rate: float,
    loss: LossSettings,
    clip_norm: float | None = None,
    mu: float = 0.0,
    control: DualControl | None = None,
    centre: torch.Tensor | None = None,
    ascent: float = 0.0,
) -> DualResult:
    """Train the linear heads of a bucket of clients.

    Args:
        gram: `(num_clients, n, n)`, zero in rows and columns past a client's size.
        start: `(num_clients, n, C)` outputs of the heads that training starts from, bias included.
        targets: `(num_clients, n)` int64 classes for softmax, else `(num_clients, n, C)`.
        steps: the clients' steps; clients in falling order of their number of steps.
        optimizer: SGD's settings.
        learning_rate: the round's.
        loss: a resolved loss.
        clip_norm: largest norm of a step's gradient.
        mu: weight of the proximal term `mu / 2 |W - W0|^2`.
        control: control variates; not together with a centre.
        centre: `(num_clients, n, C)` outputs of the head `W1` that the proximal term pulls to in place of `W0`.
        ascent: how far a step climbs before it takes its gradient, see `LocalTask`.
    """
    import torch

    num_clients, size, num_outputs = start.shape
    scale, device = start.new_ones(num_clients), start.device
    coefficients = start.new_zeros(start.shape)  # contiguous, whatever the start is: it is flattened
    decay = mu + optimizer.weight_decay
    plain = optimizer.momentum == 0 and decay == 0
    shift = torch.zeros_like(scale)
    drift = centre if control is None else control.outputs - gram @ control.own
    drift = None if drift is None else drift.flatten(0, 1)
    to_start, to_drift = (mu, 1.0) if centre is None else (0.0, -mu)
    gradients = None if plain or control is None else torch.zeros_like(start)
    velocity = None if plain else (torch.zeros_like(scale), torch.zeros_like(scale), torch.zeros_like(start))
    loss_sums = start.new_zeros(num_clients, dtype=torch.float64)
    index, counts = torch.from_numpy(steps.index).to(device), torch.from_numpy(steps.counts).to(device)
    num_steps, width = index.shape[1:]
    # A client's rows stand one after another in flat tables; whole rows are taken, which is much faster than `gather`.
    flat_gram, flat_start, flat_targets = gram.flatten(0, 1), start.flatten(0, 1), targets.flatten(0, 1)
    flat_coefficients = coefficients.flatten(0, 1)
    firsts = torch.arange(num_clients, device=device)[:, None, None] * size
    places = (index + firsts).transpose(0, 1).contiguous()
    flat_wanted = flat_targets.index_select(0, places.flatten()).view(*places.shape, *flat_targets.shape[1:])
    has_step = steps.lengths[:, None] > np.arange(num_steps)
    num_active = has_step.sum(0).tolist()
    all_whole = (~has_step | (steps.counts == width)).all(0).tolist()
    weighted = isinstance(loss, SoftmaxLoss) and loss.class_weights is not None
    for step, active in enumerate(num_active):
        batch, taken = index[:active, step], places[step, :active].flatten()
        rows = flat_gram.index_select(0, taken).view(active, width, size)
        outputs = flat_start.index_select(0, taken).view(active, width, num_outputs)
        if not plain:
            outputs *= scale[:active, None, None]
        if drift is not None:
            moved = drift.index_select(0, taken).view(active, width, num_outputs)
            outputs.addcmul_(moved, shift[:active, None, None])
        outputs += products(rows, coefficients[:active])
        wanted = flat_wanted[step, :active].flatten(0, 1)
        losses, residuals = losses_and_gradients(outputs.flatten(0, 1), wanted, loss)
        losses, residuals = losses.view(active, width), residuals.view(active, width, num_outputs)
        share: torch.Tensor | float = 1 / width
        if weighted or not all_whole[step]:
            count = counts[:active, step, None]
            real = torch.arange(width, device=device) < count
            shares = batch_shares(real, count, wanted, loss, outputs.dtype)
            losses = losses * shares * count
            share = shares[:, :, None]  # padding becomes zeros, which move nothing
        residuals *= share
        loss_sums[:active] += losses.sum(1, dtype=torch.float64)
        inner = rows.gather(2, batch[:, None, :].expand(-1, width, -1)) if ascent or clip_norm is not None else None
        if ascent and inner is not None:
            climb = ascent / (_norms(residuals, inner) + ASCENT_EPSILON)
            above = outputs + climb[:, None, None] * (inner @ residuals)
            residuals = losses_and_gradients(above.flatten(0, 1), wanted, loss)[1].view(residuals.shape) * share
        if clip_norm is not None and inner is not None:
            residuals *= (clip_norm / (_norms(residuals, inner) + CLIP_EPSILON)).clamp(max=1)[:, None, None]
        if velocity is None:  # only the batch's rows move
            moves = residuals.mul_(-learning_rate).flatten(0, 1)
            flat_coefficients.index_put_((taken,), moves, accumulate=True)
            if drift is not None:
                shift[:active] -= learning_rate
            continue
        wide = batch[:, :, None].expand(-1, -1, num_outputs)
        if gradients is not None:
            gradients[:active].scatter_add_(1, wide, residuals)
        change = (decay * coefficients[:active]).scatter_add_(1, wide, residuals)
        _move(
            (scale[:active], shift[:active], coefficients[:active]),
            tuple(value[:active] for value in velocity),
            (decay * scale[:active] - to_start, decay * shift[:active] + to_drift, change),
            optimizer,
            learning_rate,
        )
    seen = counts.sum(1)
    if control is None:
        return DualResult(scale, coefficients, loss_sums, seen, None if centre is None else shift)
    if gradients is None:  # of plain SGD the coefficients are their sum times the negative rate
        gradients = coefficients / -learning_rate
    lengths = torch.from_numpy(steps.lengths).to(device, start.dtype)[:, None, None]
    coefficients = coefficients - shift[:, None, None] * control.own
    return DualResult(scale, coefficients, loss_sums, seen, shift, gradients / lengths)


def _norms(residuals: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Return the norms of gradients `R^T X_b`, `(num_clients,)`, from the Gram matrices of the batches."""
    return (residuals @ residuals.mT * inner).sum((1, 2)).clamp_min(0).sqrt()


def _move(
    values: tuple[torch.Tensor, ...],
    velocities: tuple[torch.Tensor, ...],
    gradients: tuple[torch.Tensor, ...],
    optimizer: Sgd,
    learning_rate: float,
) -> None:
    """Take one step of `torch.optim.SGD`, in place."""
    for value, velocity, gradient in zip(values, velocities, gradients, strict=True):
        velocity.mul_(optimizer.momentum).add_(gradient)
        direction = gradient + optimizer.momentum * velocity if optimizer.nesterov else velocity
        value.sub_(direction, alpha=learning_rate)


def batch_shares(
    real: torch.Tensor, count: torch.Tensor, targets: torch.Tensor, loss: LossSettings, dtype: torch.dtype
) -> torch.Tensor:
    """Return what each sample's loss is multiplied by in its batch's mean, `(num_clients, batch)`; 0 for padding.

    Args:
        real: `(num_clients, batch)` whether there is a sample.
        count: `(num_clients, 1)` samples of each batch.
        targets: of all batches, one after another.
        loss: a resolved loss.
        dtype: of the result.
    """
    weights = sample_weights(targets, loss, dtype)
    if weights is None:
        return real.to(dtype) / count
    return real.to(dtype) / (weights.view(real.shape) * real).sum(1, keepdim=True)


def products(rows: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """Return `rows @ coefficients` of each client, `(num_clients, b, C)`.

    Of 10 x 50 by 50 x 10, NumPy's loop of small products takes half the time of `torch.bmm`.
    """
    import torch

    if not numpy_is_faster(rows.device):
        return rows @ coefficients
    with np.errstate(over="ignore", invalid="ignore"):  # what diverges is found and named when its steps are done
        return torch.from_numpy(np.matmul(rows.numpy(), coefficients.numpy()))


def losses_and_gradients(
    outputs: torch.Tensor, targets: torch.Tensor, loss: LossSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each sample's loss, `(num_samples,)`, and its gradient by the outputs, `(num_samples, C)`.

    Softmax: `p - y` with `y = (1 - e) onehot + e / C` under label smoothing `e`; with class weights `v`, `(C,)`,
    `sum(y v) p - y v`. Sigmoid: `(sigmoid - y) / C`. Squared: `f - y`.
    """
    import torch

    if isinstance(loss, SoftmaxLoss):
        return _softmax_losses_and_gradients(outputs, targets, loss)
    losses = sample_losses(outputs, targets, loss)
    if isinstance(loss, SigmoidLoss):
        return losses, (torch.sigmoid(outputs) - targets) / outputs.shape[1]
    return losses, outputs - targets


def _softmax_losses_and_gradients(
    outputs: torch.Tensor, targets: torch.Tensor, loss: SoftmaxLoss
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the exponentials once for both, where classes weigh the same."""
    import torch
    from torch.nn import functional

    smoothing, num_outputs = loss.label_smoothing, outputs.shape[1]
    weights = class_weights(loss, outputs)
    if weights is not None:
        one_hot = functional.one_hot(targets, num_outputs).to(outputs.dtype)
        wanted = (one_hot * (1 - smoothing) + smoothing / num_outputs) * weights
        gradients = torch.softmax(outputs, 1) * wanted.sum(1, keepdim=True) - wanted
        return sample_losses(outputs, targets, loss), gradients
    logs, places = torch.log_softmax(outputs, 1), targets[:, None]
    losses = logs.gather(1, places).squeeze(1).mul_(smoothing - 1)
    if smoothing:
        losses -= smoothing * logs.mean(1)
    gradients = logs.exp_()
    gradients.scatter_add_(1, places, gradients.new_full((1, 1), smoothing - 1).expand(len(places), 1))
    return losses, gradients - smoothing / num_outputs if smoothing else gradients


def head_update(
    result: DualResult,
    features: torch.Tensor,
    head: Mapping[str, torch.Tensor],
    shared: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Return every client's update, `(num_clients, *shape)`, from padded features `(num_clients, n, D)`.

    Args:
        result: what training gave.
        features: the clients'.
        head: the head that was received, or the heads that the clients started from, `(num_clients, *shape)`.
        shared: the federation's control variate, or the head that the proximal term pulled to, if there was one.
    """
    moved = (result.scale - 1).to(features.dtype)
    update = {"weight": moved[:, None, None] * head["weight"] + result.coefficients.mT @ features}
    if "bias" in head:
        update["bias"] = moved[:, None] * head["bias"] + result.coefficients.sum(1)
    if shared is not None and result.shift is not None:
        for name, value in update.items():
            value += result.shift.view(-1, *[1] * shared[name].dim()) * shared[name]
    return update
