"""The batched primal form: any head and any optimiser, one copy of the head a client, all moved together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients.engine.batches import Steps
from clients.engine.output_space import CLIP_EPSILON
from clients.engine.visits import Visits, visits
from clients.settings import Adam, AdamW, OptimizerSettings, Sgd
from clients.training import ASCENT_EPSILON, LocalTask
from fedgraft.evaluation import Objective
from fedgraft.models.head_settings import AdapterHead, CosineHead, HeadSettings, LinearHead
from fedgraft.models.heads import ADAPTER, EPSILON
from fedgraft.models.losses import sample_losses

if TYPE_CHECKING:
    import torch

Stacked = dict[str, "torch.Tensor"]
"""Parameters of all clients of a bucket, `(num_clients, *shape)`."""


@dataclass(frozen=True)
class PrimalControl:
    """The federation's control variate, and each client's, `(num_clients, *shape)`."""

    shared: Mapping[str, torch.Tensor]
    own: Stacked


@dataclass(frozen=True)
class PrimalResult:
    """What the training of a bucket gave: updates `(num_clients, *shape)`, and as `DualResult` the losses.

    With control variates also `gradients`, the mean over the steps of the clipped gradients of the loss.
    """

    update: Stacked
    loss_sums: torch.Tensor
    seen: torch.Tensor
    gradients: Stacked | None = None


def train_primal(
    features: torch.Tensor,
    targets: torch.Tensor,
    head: Mapping[str, torch.Tensor],
    steps: Steps,
    task: LocalTask,
    mu: float = 0.0,
    control: PrimalControl | None = None,
    own: Stacked | None = None,
    frozen: frozenset[str] = frozenset(),
    offsets: torch.Tensor | None = None,
) -> PrimalResult:
    """Train the heads of a bucket of clients.

    Args:
        features: `(num_clients, n, D)`, padded.
        targets: `(num_clients, n)` int64 classes for softmax, else `(num_clients, n, C)`.
        head: the head that was received.
        steps: the clients' steps; clients in falling order of their number of steps.
        task: the round's kind of head, loss, optimiser, learning rate and clipping; clipping is by the norm over all
            parameters of a client.
        mu: weight of the proximal term `mu / 2 |w - w0|^2`.
        control: control variates.
        own: heads that the clients start from in place of the one that was received; the proximal term still pulls to
            that one.
        frozen: names of parameters that stay as they are.
        offsets: `(num_clients, C)` what is added to a client's outputs while it trains.
    """
    import torch

    num_clients, clip_norm = features.shape[0], task.train.clip_norm
    start = own or {name: value.expand(num_clients, *value.shape) for name, value in head.items()}
    current = {name: value.clone() for name, value in start.items()}
    rule = _rule(task.train.optimizer, task.learning_rate, current)
    noted = None if control is None else _Noted(control, num_clients)
    seen = visits(steps, targets, task.objective.loss, features.dtype)
    losses = features.new_zeros(seen.index.shape)
    batches = _Batches(features, seen, task.objective, offsets)
    for step, active in enumerate(seen.num_active):
        moving = {name: value[:active].requires_grad_(name not in frozen) for name, value in current.items()}
        losses[step, :active], gradients = batches.descend(step, moving)
        if task.ascent:
            gradients = batches.descend(step, _ascended(moving, gradients, task.ascent))[1]
        moving = {name: value.detach() for name, value in moving.items()}
        if clip_norm is not None:
            _clip(gradients, clip_norm)
        if noted is not None:
            noted.add(gradients, active)
        for name, gradient in gradients.items():
            if mu:
                gradient.add_(moving[name] - head[name], alpha=mu)
            rule.move(name, moving[name], gradient, step + 1)
    update = {name: value - start[name] for name, value in current.items()}
    means = None if noted is None else noted.means(torch.from_numpy(steps.lengths).to(features.device))
    return PrimalResult(update, seen.loss_sums(losses), seen.seen, means)


@dataclass(frozen=True)
class _Batches:
    """The batches of all steps.

    Attributes:
        features: `(num_clients, n, D)`.
        visits: the steps.
        objective: kind of head and loss.
        offsets: `(num_clients, C)` what is added to outputs, if anything.
    """

    features: torch.Tensor
    visits: Visits
    objective: Objective
    offsets: torch.Tensor | None

    def descend(self, step: int, moving: Stacked) -> tuple[torch.Tensor, Stacked]:
        """Return a step's losses, `(active, batch)`, and the gradients of each client's mean of them by its head.

        Args:
            step: which.
            moving: the heads of the clients that have it; gradients are taken by those that require them.
        """
        import torch

        active = self.visits.num_active[step]
        taken, wanted = self.visits.places[step], self.visits.targets[step]
        inputs = self.features.flatten(0, 1).index_select(0, taken).view(active, self.visits.width, -1)
        outputs = stacked_forward(self.objective.head, moving, inputs)
        if self.offsets is not None:
            outputs = outputs + self.offsets[:active, None]
        losses = sample_losses(outputs.flatten(0, 1), wanted, self.objective.loss).view(active, -1)
        total = (losses * self.visits.share(step)).sum()  # a client's gradient does not see the others
        free = [name for name, value in moving.items() if value.requires_grad]
        gradients = torch.autograd.grad(total, [moving[name] for name in free])
        return losses.detach(), dict(zip(free, gradients, strict=True))


def _ascended(heads: Stacked, gradients: Stacked, ascent: float) -> Stacked:
    """Return each client's head, `ascent` up its gradient."""
    factor = ascent / (_norms(gradients) + ASCENT_EPSILON)
    above = {name: value.detach() for name, value in heads.items()}
    for name, gradient in gradients.items():
        above[name] = (above[name] + gradient * _each(factor, gradient)).requires_grad_()
    return above


class _Noted:
    """Sums of the clipped gradients of each client, to which its control variates are added."""

    def __init__(self, control: PrimalControl, num_clients: int) -> None:
        self._drift = {name: value - control.own[name] for name, value in control.shared.items()}
        self._sums = {name: value.new_zeros((num_clients, *value.shape)) for name, value in control.shared.items()}

    def add(self, gradients: Stacked, active: int) -> None:
        """Note the gradients of the first clients, then add to them, in place."""
        for name, gradient in gradients.items():
            self._sums[name][:active] += gradient
            gradient.add_(self._drift[name][:active])

    def means(self, lengths: torch.Tensor) -> Stacked:
        """Return the means over each client's steps."""
        return {name: value / _each(lengths.to(value.dtype), value) for name, value in self._sums.items()}


def stacked_forward(head: HeadSettings, parameters: Stacked, features: torch.Tensor) -> torch.Tensor:
    """Return outputs `(num_clients, batch, C)` of features `(num_clients, batch, D)`, each client by its own head.

    What `fedgraft.models.heads.forward` computes for one; `torch.func.vmap` of that gives the same, but its first
    call imports sympy and takes 3 s.
    """
    from torch.nn import functional

    if isinstance(head, LinearHead):
        return _linear(features, parameters["weight"], parameters.get("bias"))
    if isinstance(head, CosineHead):
        directions = functional.normalize(parameters["weight"], dim=2, eps=EPSILON)
        return parameters["scale"][:, None] * _linear(functional.normalize(features, dim=2, eps=EPSILON), directions)
    if isinstance(head, AdapterHead):
        return _linear(_linear(features, parameters[f"{ADAPTER}weight"]), parameters["weight"], parameters["bias"])
    last = len(head.hidden)
    for layer in range(last + 1):
        features = _linear(features, parameters[f"layers.{layer}.weight"], parameters[f"layers.{layer}.bias"])
        if layer < last:
            features = functional.relu(features)
    return features


def _linear(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Return `features @ weight.mT + bias`; written so that the gradient is `residuals.mT @ features`.

    The other way round the gradient is `features.mT @ residuals`, which takes six times as long.
    """
    outputs = (weight @ features.mT).mT
    return outputs if bias is None else outputs + bias[:, None]


def _clip(gradients: Stacked, clip_norm: float) -> None:
    """Clip each client's gradient by its norm over all parameters, as `torch.nn.utils.clip_grad_norm_`."""
    factor = (clip_norm / (_norms(gradients) + CLIP_EPSILON)).clamp(max=1)
    for gradient in gradients.values():
        gradient.mul_(_each(factor, gradient))


def _norms(gradients: Stacked) -> torch.Tensor:
    """Return each client's norm over all parameters, `(num_clients,)`."""
    import torch

    return torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients.values()]).sum(0).sqrt()


def _each(factors: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return `(num_clients,)` factors with as many axes as the values of the clients have."""
    return factors.view(-1, *[1] * (values.dim() - 1))


def _rule(settings: OptimizerSettings, learning_rate: float, parameters: Stacked) -> _AdamRule | _SgdRule:
    if isinstance(settings, Adam):
        return _AdamRule(settings, learning_rate, parameters)
    return _SgdRule(settings, learning_rate, parameters)


class _SgdRule:
    """`torch.optim.SGD` over stacked parameters."""

    def __init__(self, settings: Sgd, learning_rate: float, parameters: Stacked) -> None:
        import torch

        self._settings = settings
        self._rate = learning_rate
        self._velocity = {name: torch.zeros_like(value) for name, value in parameters.items() if settings.momentum}

    def move(self, name: str, value: torch.Tensor, gradient: torch.Tensor, step: int) -> None:
        """Move one parameter of the first clients, in place, and change the gradient."""
        settings = self._settings
        if settings.weight_decay:
            gradient.add_(value, alpha=settings.weight_decay)
        if settings.momentum:
            velocity = self._velocity[name][: len(value)].mul_(settings.momentum).add_(gradient)
            gradient = gradient.add_(velocity, alpha=settings.momentum) if settings.nesterov else velocity
        value.sub_(gradient, alpha=self._rate)


class _AdamRule:
    """`torch.optim.Adam` (Kingma and Ba, arXiv:1412.6980) and `AdamW` (arXiv:1711.05101) over stacked parameters."""

    def __init__(self, settings: Adam, learning_rate: float, parameters: Stacked) -> None:
        import torch

        self._settings = settings
        self._rate = learning_rate
        self._first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self._second = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def move(self, name: str, value: torch.Tensor, gradient: torch.Tensor, step: int) -> None:
        """Move one parameter of the first clients, in place, and change the gradient; `step` counts from 1."""
        settings = self._settings
        if isinstance(settings, AdamW):
            value.mul_(1 - self._rate * settings.weight_decay)
        elif settings.weight_decay:
            gradient.add_(value, alpha=settings.weight_decay)
        first = self._first[name][: len(value)].lerp_(gradient, 1 - settings.beta_1)
        second = self._second[name][: len(value)].mul_(settings.beta_2)
        second.addcmul_(gradient, gradient, value=1 - settings.beta_2)
        root = second.sqrt().div_((1 - settings.beta_2**step) ** 0.5).add_(settings.epsilon)
        value.addcdiv_(first, root, value=-self._rate / (1 - settings.beta_1**step))
