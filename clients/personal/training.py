"""Own heads train: each client's from where it stands, perhaps pulled to the head that was received.

The steps are those of shared training: the same batches, optimiser, clipping and forms. With a pull `p` a step's
gradient is that of the client's loss at its own head `v`, clipped, plus `p (v - w)` for the received head `w`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import numpy as np
from numpy.typing import NDArray

from clients.engine.batches import Steps
from clients.engine.cohort import AtOnce, Engine
from clients.engine.dual import DualResult, head_update, train_dual
from clients.engine.fit import Fit, fit
from clients.engine.primal import PrimalResult, Stacked, stacked_forward, train_primal
from clients.replies import stacked_sum
from clients.settings import Sgd
from clients.training import LocalTask, diverged, train_client
from fedgraft.errors import WireError
from fedgraft.evaluation import Objective
from fedgraft.models.heads import forward

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]
HeadsOf = Callable[[NDArray[np.int64]], Stacked]
"""Returns the heads of some clients, `(num, *shape)` each, that are the caller's to change."""


@dataclass(frozen=True)
class OwnTrained:
    """Some clients whose own heads trained at once; a reply may count them, but their heads stay.

    Attributes:
        clients: their positions among the host's.
        start: their heads before, `(num_clients, *shape)`.
        heads: and after.
    """

    clients: NDArray[np.int64]
    turns: NDArray[np.int64]
    num_samples: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    mean_losses: NDArray[np.float64]
    start: Stacked
    heads: Stacked
    features: torch.Tensor
    targets: torch.Tensor
    objective: Objective
    shared: Stacked = field(default_factory=dict)
    """Updates of the arrays that leave, of those heads that share some; `(num_clients, *shape)`."""
    kept: Stacked = field(default_factory=dict)
    """What the clients keep in place of their heads, where it is something else."""

    @property
    def losses_before(self) -> NDArray[np.float64]:
        """Mean loss of each client's own head before, over its training samples, `(num_clients,)`."""
        return self._fit(self.start).losses

    @property
    def losses_after(self) -> NDArray[np.float64]:
        """The same after."""
        return self._after.losses

    @property
    def scores_after(self) -> NDArray[np.float64]:
        """Mean score of each client's own head after, over its training samples, `(num_clients,)`."""
        return self._after.scores

    @functools.cached_property
    def _after(self) -> Fit:
        return self._fit(self.heads)

    def _fit(self, heads: Stacked) -> Fit:
        outputs = stacked_forward(self.objective.head, heads, self.features)
        return fit(outputs, self.targets, self.num_samples, self.objective)

    def weighted_sum(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k update_k` of what is shared, zeros for the rest.

        Raises:
            WireError: nothing of these heads leaves their clients.
        """
        return stacked_sum(self.updates(), weights)

    def square_norms(self) -> NoReturn:
        """Refuse: a norm over the whole head would tell of layers that stay."""
        self._refuse()

    def state_change(self, state: str, weights: NDArray[np.float64]) -> NoReturn:
        """Refuse likewise."""
        self._refuse()

    def updates(self) -> dict[str, NDArray[np.float32]]:
        """Return every client's update of what is shared, zeros for the rest; `(num_clients, *shape)`.

        Raises:
            WireError: nothing of these heads leaves their clients.
        """
        if not self.shared:
            self._refuse()
        return {
            name: self.shared[name].float().cpu().numpy() if name in self.shared else np.zeros(value.shape, np.float32)
            for name, value in self.heads.items()
        }

    def _refuse(self) -> NoReturn:
        raise WireError("the strategy asks for updates of heads that stay with their clients; ask for scalars only")


def own_trained(
    task: LocalTask,
    some: AtOnce,
    steps: Steps,
    names: Sequence[str],
    start: Stacked,
    update: Mapping[str, torch.Tensor],
    result: DualResult | PrimalResult,
) -> OwnTrained:
    """Return the own heads of clients that trained at once.

    Args:
        task: the round's.
        some: the clients.
        steps: theirs.
        names: the names of all of the host's clients, for errors.
        start: the heads that they started from.
        update: what training added to them.
        result: its losses.

    Raises:
        TrainingError: a client's head is not finite.
    """
    heads = {name: value + update[name] for name, value in start.items()}
    finite = np.logical_and.reduce([value.flatten(1).isfinite().all(1).cpu().numpy() for value in heads.values()])
    if not finite.all():
        place = int(np.argmin(finite))
        raise diverged(task, names[int(some.clients[place])], int(steps.lengths[place]))
    losses = result.loss_sums.cpu().numpy() / np.maximum(result.seen.cpu().numpy(), 1)
    table = some.table
    return OwnTrained(
        some.clients,
        some.turns,
        table.sizes,
        steps.lengths,
        losses,
        start,
        heads,
        table.features,
        table.targets,
        task.objective,
    )


def train_own(
    engine: Engine,
    task: LocalTask,
    index: NDArray[np.int64],
    names: Sequence[str],
    heads_of: HeadsOf,
    received: Tensors,
    pull: float = 0.0,
    threads: int = 1,
) -> Iterator[OwnTrained]:
    """Train the own heads of the clients at `index`, many at once; yield those that trained together.

    Args:
        engine: of the host's clients.
        task: the round's.
        index: which clients, ascending positions among the host's.
        names: the names of all of the host's clients, for errors.
        heads_of: the heads that they start from.
        received: the head that was received.
        pull: weight of the proximal term towards it.
        threads: groups that train side by side.

    Raises:
        TrainingError: a client's head is not finite after its training.
    """
    received = {name: value.to(engine.device) for name, value in received.items()}

    def train(some: AtOnce) -> OwnTrained:
        steps, start = engine.steps(task, some), heads_of(some.clients)
        start = {name: value.to(engine.device) for name, value in start.items()}
        result, update = _trained(task, some, steps, start, received, pull)
        return own_trained(task, some, steps, names, start, update, result)

    return engine.at_once(train, task, index, threads)


def _trained(
    task: LocalTask, some: AtOnce, steps: Steps, start: Stacked, received: Tensors, pull: float
) -> tuple[DualResult | PrimalResult, Stacked]:
    """Return what training gave, and the updates of the heads, in the dual or the primal form."""
    objective, table = task.objective, some.table
    if table.gram is None or not isinstance(task.train.optimizer, Sgd):
        primal = train_primal(
            table.features,
            table.targets,
            received,
            steps,
            task,
            pull,
            own=start,
        )
        return primal, primal.update
    dual = train_dual(
        table.gram,
        stacked_forward(objective.head, start, table.features),
        table.targets,
        steps,
        task,
        pull,
        centre=forward(objective.head, received, table.features) if pull else None,
    )
    return dual, head_update(dual, table.features, start, received)


def train_own_one_by_one(
    task: LocalTask,
    samples: Iterable[tuple[torch.Tensor, torch.Tensor]],
    index: NDArray[np.int64],
    keys: NDArray[np.uint64],
    names: Sequence[str],
    heads_of: HeadsOf,
    received: Tensors,
    pull: float = 0.0,
) -> Iterator[OwnTrained]:
    """Do the same by the plain loop, one client after another; the readable reference.

    Args:
        task: the round's.
        samples: features and targets of each client at `index`.
        index: which clients, ascending positions among the host's.
        keys: the keys of all of the host's clients.
        names: their names, for errors.
        heads_of: the heads that they start from.
        received: the head that was received.
        pull: weight of the proximal term towards it.

    Raises:
        TrainingError: a client's head is not finite after its training.
    """

    def pulled(current: Tensors, _: Tensors) -> None:
        for name, parameter in current.items():
            if parameter.grad is not None and pull:
                parameter.grad.add_(parameter.detach() - received[name], alpha=pull)

    for turn, (features, targets) in enumerate(samples):
        if not len(features):
            continue
        client = index[turn : turn + 1]
        start = heads_of(client)
        own = {name: value[0] for name, value in start.items()}
        result = train_client(task, own, features, targets, int(keys[client[0]]), pulled)
        if not all(bool(value.isfinite().all()) for value in result.parameters.values()):
            raise diverged(task, names[int(client[0])], result.num_steps)
        yield OwnTrained(
            client,
            np.array([turn]),
            np.array([len(features)]),
            np.array([result.num_steps]),
            np.array([result.mean_loss]),
            start,
            {name: value[None] for name, value in result.parameters.items()},
            features[None],
            targets[None],
            task.objective,
        )
