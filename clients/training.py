"""The plain loop: one client's head trained as any PyTorch tutorial would, the readable reference for all others.

A local step is: mean loss over the batch; its gradient, clipped; then what the client half adds (a control
variate, a proximal term); then weight decay and the optimiser's rule, as `torch.optim` does them. A half that climbs
takes the gradient at `w + rho g / |g|` in place of that at `w`, of which `g` is the gradient; all else is done at `w`.
Blocks of the backbone that are trained with the head are arrays as its own, with rates of their own; see
`clients.tuning`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.halves import Adjust, Control
from clients.norm import LocalNorm
from clients.settings import Adam, AdamW, OptimizerSettings, TrainSettings
from clients.tuning import Tuning
from fedgraft.errors import TrainingError
from fedgraft.evaluation import Objective
from fedgraft.metrics import sample_scores
from fedgraft.models.losses import mean_loss, sample_losses
from fedgraft.randomness import key, orders
from fedgraft.threads import in_order

if TYPE_CHECKING:
    import torch

ASCENT_EPSILON = 1e-12
"""Added to the norm of a gradient that is climbed, so that at an optimum nothing is."""


@dataclass(frozen=True)
class LocalTask:
    """What is the same for every client of a round.

    Attributes:
        objective: head, loss and task.
        train: the settings of local training.
        seed: the scenario's.
        round_number: the round.
        num_rounds: of the whole run, or of the stage that the round is of.
        ascent: rho, how far a step climbs before it takes its gradient; 0: it takes it where it stands.
        tuning: what is otherwise for blocks of the backbone that are trained.
        earlier_rounds: of stages before this one, or of tasks, where classes arrive task by task; the schedule starts
            anew with each.
    """

    objective: Objective
    train: TrainSettings
    seed: int
    round_number: int
    num_rounds: int
    ascent: float = 0.0
    tuning: Tuning = field(default_factory=Tuning)
    earlier_rounds: int = 0

    @property
    def learning_rate(self) -> float:
        """The round's learning rate: the optimiser's, times the schedule's factor."""
        factor = self.train.schedule.factor(self.round_number - self.earlier_rounds, self.num_rounds)
        return self.train.optimizer.learning_rate * factor

    @property
    def last_round(self) -> int:
        """The number of the last round, of the run or of the stage."""
        return self.earlier_rounds + self.num_rounds


@dataclass(frozen=True)
class LocalResult:
    """What one client's training gave.

    Attributes:
        parameters: the head after training.
        num_steps: optimiser steps taken.
        mean_loss: mean over the samples of all steps, each taken before its step (0 without a step).
    """

    parameters: Mapping[str, torch.Tensor]
    num_steps: int
    mean_loss: float


def batches(task: LocalTask, client_key: int, num_samples: int) -> Iterator[NDArray[np.int64]]:
    """Yield the positions of each step's batch.

    Every epoch is a permutation of its own, a pure function of (seed, round, client, epoch).
    """
    settings = task.train
    num_steps = settings.local_steps
    num_epochs = None if num_steps is not None else (settings.local_epochs or 1)
    epoch, taken = 0, 0
    while num_samples > 0 and (num_epochs is None or epoch < num_epochs):
        keys = key(task.seed, "batches", task.round_number, client_key, epoch)
        order = orders(keys, num_samples)[0]
        for batch in epoch_batches(order, settings.batch_size, settings.drop_last):
            if taken == num_steps:
                return
            taken += 1
            yield batch
        epoch += 1


def epoch_batches(order: NDArray[np.int64], batch_size: int, drop_last: bool) -> list[NDArray[np.int64]]:
    """Return an epoch's batches; with `drop_last` without the smaller last one, unless it is the only one."""
    cuts = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    return cuts[:-1] if drop_last and len(cuts) > 1 and len(cuts[-1]) < batch_size else cuts


def build_optimizer(
    settings: OptimizerSettings, learning_rate: float, parameters: list[torch.Tensor] | list[dict[str, Any]]
) -> torch.optim.Optimizer:
    """Return the optimiser of parameters, or of groups of them as torch takes them, with a fresh state."""
    import torch

    if isinstance(settings, Adam | AdamW):
        kind = torch.optim.AdamW if isinstance(settings, AdamW) else torch.optim.Adam
        return kind(
            parameters,
            lr=learning_rate,
            betas=(settings.beta_1, settings.beta_2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.SGD(
        parameters,
        lr=learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )


def train_client(
    task: LocalTask,
    start: Mapping[str, torch.Tensor],
    features: torch.Tensor,
    targets: torch.Tensor,
    client_key: int,
    adjust: Adjust,
) -> LocalResult:
    """Train one client's head.

    Args:
        task: what is the same for every client.
        start: the head that was received; not changed.
        features: `(num_samples, feature_dim)` of the client's training part, or activations for blocks.
        targets: as `fedgraft.models.losses.target_tensor` gives them.
        client_key: the client's key for its order of batches.
        adjust: the client half.
    """
    import torch

    parameters = {name: value.clone().requires_grad_() for name, value in start.items()}
    settings = task.train.optimizer
    groups = task.tuning.groups(parameters, task.learning_rate, settings.weight_decay)
    optimizer = build_optimizer(settings, task.learning_rate, groups)
    num_steps, num_seen, total_loss = 0, 0, 0.0
    for batch in batches(task, client_key, len(features)):
        rows = torch.from_numpy(batch)
        inputs, wanted = features[rows], targets[rows]
        optimizer.zero_grad()
        mean = _backward(task.objective, parameters, inputs, wanted)
        if task.ascent:
            above = ascended(parameters, task.ascent)
            _backward(task.objective, above, inputs, wanted)
            for name, value in above.items():
                parameters[name].grad = value.grad
        if task.train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), task.train.clip_norm)
        adjust(parameters, start)
        task.tuning.add_pull(parameters)
        optimizer.step()
        num_steps += 1
        num_seen += len(batch)
        total_loss += len(batch) * float(mean.detach())
    trained = {name: value.detach() for name, value in parameters.items()}
    return LocalResult(trained, num_steps, total_loss / num_seen if num_seen else 0.0)


def _backward(
    objective: Objective, parameters: Mapping[str, torch.Tensor], features: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Return a batch's mean loss; its gradient stands at the parameters then."""
    losses = sample_losses(objective.outputs(parameters, features, training=True), targets, objective.loss)
    mean = mean_loss(losses, targets, objective.loss)
    mean.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return mean


def ascended(parameters: Mapping[str, torch.Tensor], ascent: float) -> dict[str, torch.Tensor]:
    """Return new parameters, `ascent` up the gradient that stands at these, over all of them together."""
    gradients = {name: value.grad for name, value in parameters.items() if value.grad is not None}
    norm = sum(float(gradient.square().sum()) for gradient in gradients.values()) ** 0.5
    climb = ascent / (norm + ASCENT_EPSILON)
    above = {name: parameters[name].detach() + climb * gradient for name, gradient in gradients.items()}
    return {name: above.get(name, value.detach()).requires_grad_() for name, value in parameters.items()}


def diverged(task: LocalTask, client_name: str, num_steps: int) -> TrainingError:
    """Return the error of a client whose head is not finite."""
    return TrainingError(
        f"the head of client {client_name!r} is not finite after {num_steps} local steps of round "
        f"{task.round_number}, so training diverged; lower train.optimizer.learning_rate (now "
        f"{task.train.optimizer.learning_rate:g}) or set train.clip_norm"
    )


@dataclass(frozen=True)
class TrainedClient:
    """One client after the plain loop; what a reply adds."""

    turns: NDArray[np.int64]
    num_samples: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    mean_losses: NDArray[np.float64]
    losses_before: NDArray[np.float64]
    losses_after: NDArray[np.float64]
    scores_after: NDArray[np.float64]
    update: Mapping[str, torch.Tensor]
    state_changes: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)

    def weighted_sum(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the update times the client's weight."""
        return {name: float(weights[0]) * value.double().numpy() for name, value in self.update.items()}

    def square_norms(self) -> NDArray[np.float64]:
        """Return the update's squared norm over the whole head, `(1,)`."""
        return np.array([sum(float(value.double().square().sum()) for value in self.update.values())])

    def state_change(self, state: str, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the change of a state times the client's weight."""
        return {name: float(weights[0]) * value.double().numpy() for name, value in self.state_changes[state].items()}

    def updates(self) -> dict[str, NDArray[np.float32]]:
        """Return the update, `(1, *shape)`."""
        return {name: value[None].float().numpy() for name, value in self.update.items()}


def train_one_by_one(
    task: LocalTask,
    start: Mapping[str, torch.Tensor],
    samples: Iterable[tuple[torch.Tensor, torch.Tensor]],
    keys: NDArray[np.uint64],
    names: Sequence[str],
    adjust: Adjust,
    control: Control | None = None,
    threads: int = 1,
    norm: LocalNorm | None = None,
) -> Iterator[TrainedClient]:
    """Train clients one after another; yield each in turn, without those that have no samples.

    Args:
        task: what is the same for every client.
        start: the head that was received.
        samples: each client's features and targets.
        keys: `(num_clients,)` their keys.
        names: their names, for errors.
        adjust: the client half.
        control: control variates, which are added before `adjust` adds.
        threads: clients that train side by side; no bit depends on it.
        norm: batch norm that is each client's own.

    Raises:
        TrainingError: a client's head is not finite after its training.
    """

    def one(turn: int, features: torch.Tensor, targets: torch.Tensor) -> TrainedClient | None:
        if not len(features):
            return None
        variate, both = (None, adjust) if control is None else control.of(turn, adjust)
        own, begin = task, start
        if norm is not None:
            objective, weights = norm.of(turn, task.objective)
            own, begin = replace(task, objective=objective), {**start, **weights}
        before = _fit(own.objective, begin, features, targets)
        result = train_client(own, begin, features, targets, int(keys[turn]), both)
        if not all(bool(value.isfinite().all()) for value in result.parameters.values()):
            raise diverged(task, names[turn], result.num_steps)
        if norm is not None:
            norm.keep(turn, own.objective, result.parameters)
        update = {name: result.parameters[name] - value for name, value in start.items()}
        after = _fit(own.objective, result.parameters, features, targets)
        return TrainedClient(
            turns=np.array([turn]),
            num_samples=np.array([len(features)]),
            num_steps=np.array([result.num_steps]),
            mean_losses=np.array([result.mean_loss]),
            losses_before=before[:1],
            losses_after=after[:1],
            scores_after=after[1:],
            update=update,
            state_changes={}
            if control is None or variate is None
            else {"control": control.keep(turn, variate, update)},
        )

    jobs = (functools.partial(one, turn, *own) for turn, own in enumerate(samples))
    results = (job() for job in jobs) if threads == 1 else in_order(jobs, threads)
    yield from (result for result in results if result is not None)


def _fit(
    objective: Objective, parameters: Mapping[str, torch.Tensor], features: torch.Tensor, targets: torch.Tensor
) -> NDArray[np.float64]:
    """Return a head's mean loss and mean score over a client's training samples, `(2,)`."""
    import torch

    with torch.inference_mode():
        chunks = [objective.outputs(parameters, rows) for rows in torch.split(features, objective.rows_a_chunk)]
        outputs = torch.cat(chunks) if len(chunks) > 1 else chunks[0]
    losses = sample_losses(outputs, targets, objective.loss)
    actual = targets.argmax(1) if objective.task == "classes" and targets.dim() == 2 else targets
    scores = sample_scores(outputs.numpy(), actual.numpy(), objective.task)
    return np.array([float(mean_loss(losses.double(), targets, objective.loss)), scores.mean()])
