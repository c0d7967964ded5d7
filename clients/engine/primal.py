"""The batched primal form: any head and any optimiser, one copy of the head a client, all moved together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients.engine.batches import Steps
from clients.engine.dual import CLIP_EPSILON
from clients.settings import Adam, AdamW, OptimizerSettings, Sgd
from fedgraft.evaluation import Objective
from fedgraft.models.heads import forward
from fedgraft.models.losses import sample_losses

if TYPE_CHECKING:
    import torch

Stacked = dict[str, "torch.Tensor"]
"""Parameters of all clients of a bucket, `(num_clients, *shape)`."""


@dataclass(frozen=True)
class PrimalResult:
    """What the training of a bucket gave: updates `(num_clients, *shape)`, and as `DualResult` the losses."""

    update: Stacked
    loss_sums: torch.Tensor
    seen: torch.Tensor


def train_primal(
    features: torch.Tensor,
    targets: torch.Tensor,
    head: Mapping[str, torch.Tensor],
    steps: Steps,
    objective: Objective,
    optimizer: OptimizerSettings,
    learning_rate: float,
    clip_norm: float | None = None,
    mu: float = 0.0,
) -> PrimalResult:
    """Train the heads of a bucket of clients.

    Args:
        features: `(num_clients, n, D)`, padded.
        targets: `(num_clients, n)` int64 classes for softmax, else `(num_clients, n, C)`.
        head: the head that was received.
        steps: the clients' steps; clients in falling order of their number of steps.
        objective: kind of head and resolved loss.
        optimizer: its settings.
        learning_rate: the round's.
        clip_norm: largest norm of a step's gradient, over all parameters of a client.
        mu: weight of the proximal term `mu / 2 |w - w0|^2`.
    """
    import torch

    def loss_of(
        parameters: Stacked, x: torch.Tensor, y: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses = sample_losses(forward(objective.head, parameters, x), y, objective.loss)
        return (losses * weights).sum(), losses

    gradients_of = torch.func.vmap(torch.func.grad(loss_of, has_aux=True))
    num_clients = features.shape[0]
    current = {name: value.expand(num_clients, *value.shape).clone() for name, value in head.items()}
    rule: _AdamRule | _SgdRule
    if isinstance(optimizer, Adam):
        rule = _AdamRule(optimizer, learning_rate, current)
    else:
        rule = _SgdRule(optimizer, learning_rate, current)
    index, counts = torch.from_numpy(steps.index), torch.from_numpy(steps.counts)
    places, clients = torch.arange(index.shape[2]), torch.arange(num_clients)
    loss_sums = torch.zeros(num_clients, dtype=torch.float64)
    for step in range(index.shape[1]):
        active = int((steps.lengths > step).sum())
        batch, count = index[:active, step], counts[:active, step, None]
        real = places < count
        rows = clients[:active, None]
        moving = {name: value[:active] for name, value in current.items()}
        weights = real.to(features.dtype) / count
        gradients, losses = gradients_of(moving, features[rows, batch], targets[rows, batch], weights)
        loss_sums[:active] += (losses * real).sum(1, dtype=torch.float64)
        if clip_norm is not None:
            _clip(gradients, clip_norm)
        if mu:
            for name, gradient in gradients.items():
                gradient.add_(moving[name] - head[name], alpha=mu)
        for name, value in moving.items():
            rule.move(name, value, gradients[name], step + 1)
    update = {name: value - head[name] for name, value in current.items()}
    return PrimalResult(update, loss_sums, counts.sum(1))


def _clip(gradients: Stacked, clip_norm: float) -> None:
    """Clip each client's gradient by its norm over all parameters, as `torch.nn.utils.clip_grad_norm_`."""
    square = sum(gradient.flatten(1).square().sum(1) for gradient in gradients.values())
    factor = (clip_norm / (square.sqrt() + CLIP_EPSILON)).clamp(max=1)  # type: ignore[union-attr]  # never the int 0
    for gradient in gradients.values():
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))


class _SgdRule:
    """`torch.optim.SGD` over stacked parameters."""

    def __init__(self, settings: Sgd, learning_rate: float, parameters: Stacked) -> None:
        import torch

        self._settings = settings
        self._rate = learning_rate
        self._velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def move(self, name: str, value: torch.Tensor, gradient: torch.Tensor, step: int) -> None:
        """Move one parameter of the first clients, in place."""
        settings = self._settings
        gradient = gradient + settings.weight_decay * value
        velocity = self._velocity[name][: len(value)].mul_(settings.momentum).add_(gradient)
        value.sub_(gradient + settings.momentum * velocity if settings.nesterov else velocity, alpha=self._rate)


class _AdamRule:
    """`torch.optim.Adam` (Kingma and Ba, arXiv:1412.6980) and `AdamW` (arXiv:1711.05101) over stacked parameters."""

    def __init__(self, settings: Adam, learning_rate: float, parameters: Stacked) -> None:
        import torch

        self._settings = settings
        self._rate = learning_rate
        self._first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self._second = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def move(self, name: str, value: torch.Tensor, gradient: torch.Tensor, step: int) -> None:
        """Move one parameter of the first clients, in place; `step` counts from 1."""
        settings = self._settings
        if isinstance(settings, AdamW):
            value.mul_(1 - self._rate * settings.weight_decay)
        else:
            gradient = gradient + settings.weight_decay * value
        first = self._first[name][: len(value)].lerp_(gradient, 1 - settings.beta_1)
        second = self._second[name][: len(value)].mul_(settings.beta_2)
        second.addcmul_(gradient, gradient, value=1 - settings.beta_2)
        root = second.sqrt().div_((1 - settings.beta_2**step) ** 0.5).add_(settings.epsilon)
        value.addcdiv_(first, root, value=-self._rate / (1 - settings.beta_1**step))
