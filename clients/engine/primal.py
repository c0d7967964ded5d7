"""The batched primal form: any head and any optimiser, one copy of the head a client, all moved together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clients.engine.batches import Steps
from clients.engine.dual import CLIP_EPSILON, batch_shares
from clients.settings import Adam, AdamW, OptimizerSettings, Sgd
from clients.training import ASCENT_EPSILON
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
    objective: Objective,
    optimizer: OptimizerSettings,
    learning_rate: float,
    clip_norm: float | None = None,
    mu: float = 0.0,
    control: PrimalControl | None = None,
    own: Stacked | None = None,
    frozen: frozenset[str] = frozenset(),
    offsets: torch.Tensor | None = None,
    ascent: float = 0.0,
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
        control: control variates.
        own: heads that the clients start from in place of the one that was received; the proximal term still pulls to
            that one.
        frozen: names of parameters that stay as they are.
        offsets: `(num_clients, C)` what is added to a client's outputs while it trains.
        ascent: how far a step climbs before it takes its gradient, see `LocalTask`.
    """
    import torch

    num_clients = features.shape[0]
    start = own or {name: value.expand(num_clients, *value.shape) for name, value in head.items()}
    current = {name: value.clone() for name, value in start.items()}
    rule: _AdamRule | _SgdRule
    if isinstance(optimizer, Adam):
        rule = _AdamRule(optimizer, learning_rate, current)
    else:
        rule = _SgdRule(optimizer, learning_rate, current)
    device = features.device
    index, counts = torch.from_numpy(steps.index).to(device), torch.from_numpy(steps.counts).to(device)
    places = torch.arange(index.shape[2], device=device)
    firsts = torch.arange(num_clients, device=device)[:, None] * features.shape[1]
    flat_features, flat_targets = features.flatten(0, 1), targets.flatten(0, 1)
    loss_sums = features.new_zeros(num_clients, dtype=torch.float64)
    noted = None if control is None else _Noted(control, num_clients)
    for step in range(index.shape[1]):
        active = int((steps.lengths > step).sum())
        batch, count = index[:active, step], counts[:active, step, None]
        real = places < count
        taken = (firsts[:active] + batch).flatten()
        moving = {name: value[:active].requires_grad_(name not in frozen) for name, value in current.items()}
        free = [name for name in moving if name not in frozen]
        inputs = flat_features.index_select(0, taken).view(active, batch.shape[1], -1)
        wanted = flat_targets.index_select(0, taken)
        share = batch_shares(real, count, wanted, objective.loss, features.dtype)
        added = None if offsets is None else offsets[:active, None]
        batches = _Batches(objective, inputs, wanted, share, added)
        losses, gradients = batches.descend(moving, free)
        if ascent:
            gradients = batches.descend(_ascended(moving, gradients, ascent), free)[1]
        moving = {name: value.detach() for name, value in moving.items()}
        loss_sums[:active] += (losses.detach() * share).sum(1, dtype=torch.float64) * count[:, 0]
        if clip_norm is not None:
            _clip(gradients, clip_norm)
        if noted is not None:
            noted.add(gradients, active)
        if mu:
            for name, gradient in gradients.items():
                gradient.add_(moving[name] - head[name], alpha=mu)
        for name in free:
            rule.move(name, moving[name], gradients[name], step + 1)
    update = {name: value - start[name] for name, value in current.items()}
    means = None if noted is None else noted.means(torch.from_numpy(steps.lengths).to(device))
    return PrimalResult(update, loss_sums, counts.sum(1), means)


@dataclass(frozen=True)
class _Batches:
    """One step's batches of some clients.

    Attributes:
        objective: kind of head and loss.
        inputs: `(num_clients, batch, D)`.
        wanted: their targets, one after another.
        share: `(num_clients, batch)` what a sample's loss is multiplied by in its batch's mean.
        offsets: `(num_clients, 1, C)` what is added to outputs, if anything.
    """

    objective: Objective
    inputs: torch.Tensor
    wanted: torch.Tensor
    share: torch.Tensor
    offsets: torch.Tensor | None

    def descend(self, heads: Stacked, free: Sequence[str]) -> tuple[torch.Tensor, Stacked]:
        """Return samples' losses `(num_clients, batch)`, and gradients of the means by the free parameters."""
        import torch

        outputs = stacked_forward(self.objective.head, heads, self.inputs)
        outputs = (outputs if self.offsets is None else outputs + self.offsets).flatten(0, 1)
        losses = sample_losses(outputs, self.wanted, self.objective.loss).view(self.share.shape)
        total = (losses * self.share).sum()  # a client's gradient does not see the others
        found = torch.autograd.grad(total, [heads[name] for name in free])
        return losses, dict(zip(free, found, strict=True))


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
