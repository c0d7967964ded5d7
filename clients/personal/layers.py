"""Heads with an adapter: what each personal strategy trains of them, what leaves a client and what stays.

- `own` (FedPer, FedRep): the client's own layer and the adapter train together, or first the layer alone and then the
  adapter alone. The adapter leaves, the layer stays.
- `frozen` (FedBABU): the adapter trains under the received layer, and leaves; nothing stays.
- `added` (FedRoD): the received head trains by balanced softmax, and leaves; then what the client's own layer adds to
  it trains, and stays.

Steps, batches and optimisers are those of shared training; a phase begins with a fresh optimiser, over the same
batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from clients.engine.cohort import AtOnce, Engine
from clients.engine.primal import Stacked, train_primal
from clients.personal.heads import OwnHeads
from clients.personal.training import OwnTrained, Tensors, own_trained
from clients.training import LocalTask
from fedgraft.models.heads import ADAPTER

if TYPE_CHECKING:
    import torch

Layers = Literal["own", "frozen", "added"]

LEAST_COUNT = 1e-6
"""A class that a client lacks counts as so many samples in balanced softmax, whose logarithm is then a number."""


@dataclass(frozen=True)
class LayerTraining:
    """How the clients of a round train heads with an adapter.

    Attributes:
        engine: of the host's clients.
        task: the round's.
        names: the names of all of the host's clients, for errors.
        received: the head that was received.
        own: the clients' own layers; None where they keep none.
        layer_epochs: passes in which the own layer trains alone before the adapter does alone; 0: both together.
    """

    engine: Engine
    task: LocalTask
    names: Sequence[str]
    received: Tensors
    own: OwnHeads | None = None
    layer_epochs: int = 0

    def run(self, layers: Layers, index: NDArray[np.int64], threads: int = 1) -> Iterator[OwnTrained]:
        """Train the clients at `index`, ascending positions among the host's; yield those that trained at once.

        Raises:
            TrainingError: a client's head is not finite after its training.
        """
        here = replace(self, received={name: value.to(self.engine.device) for name, value in self.received.items()})
        kinds = {"own": here._own, "frozen": here._frozen, "added": here._added}
        return self.engine.at_once(kinds[layers], self.task, index, threads)

    def _own(self, some: AtOnce) -> OwnTrained:
        own = self._start(some, self.own)
        if not self.layer_epochs:
            return self._shared(self._phase(some, own))
        train = self.task.train.model_copy(update={"local_epochs": self.layer_epochs, "local_steps": None})
        alone = self._phase(some, own, frozen=self._adapter, task=replace(self.task, train=train))
        return self._shared(self._phase(some, alone.heads, frozen=self._layer))

    def _frozen(self, some: AtOnce) -> OwnTrained:
        return self._shared(self._phase(some, self._start(some), frozen=self._layer))

    def _added(self, some: AtOnce) -> OwnTrained:
        """Of `received + added` only the second part is trained in the end: its gradient is that of the sum."""
        start = self._start(some)
        generic = self._phase(some, start, offsets=self._balanced(some))
        added = {name: value - start[name] for name, value in self._start(some, self.own).items()}
        both = self._phase(
            some, {name: value + added[name] for name, value in generic.heads.items()}, frozen=self._adapter
        )
        shared = {name: value - start[name] for name, value in generic.heads.items()}
        kept = {name: value - generic.heads[name] for name, value in both.heads.items() if name in self._layer}
        return replace(generic, shared=shared, kept=kept, num_steps=generic.num_steps + both.num_steps)

    @property
    def _adapter(self) -> frozenset[str]:
        return frozenset(name for name in self.received if name.startswith(ADAPTER))

    @property
    def _layer(self) -> frozenset[str]:
        return frozenset(self.received) - self._adapter

    def _start(self, some: AtOnce, own: OwnHeads | None = None) -> Stacked:
        if own is not None:
            return {name: value.to(self.engine.device) for name, value in own.of(some.clients).items()}
        return {name: value.repeat(len(some.clients), *[1] * value.dim()) for name, value in self.received.items()}

    def _balanced(self, some: AtOnce) -> torch.Tensor:
        """Return the logarithms of each client's samples of each class, `(num_clients, C)`."""
        import torch

        table, num_outputs = some.table, self.task.objective.num_outputs
        counts = table.features.new_zeros((len(some.clients), num_outputs))
        real = np.arange(table.targets.shape[1]) < table.sizes[:, None]
        counts.scatter_add_(1, table.targets, torch.from_numpy(real).to(counts))
        return counts.clamp_min(LEAST_COUNT).log()

    def _shared(self, trained: OwnTrained) -> OwnTrained:
        """Return the same with the adapter's update, measured from the adapter that was received."""
        shared = {name: trained.heads[name] - self.received[name] for name in self._adapter}
        return replace(trained, shared=shared)

    def _phase(
        self,
        some: AtOnce,
        start: Stacked,
        frozen: frozenset[str] = frozenset(),
        offsets: torch.Tensor | None = None,
        task: LocalTask | None = None,
    ) -> OwnTrained:
        """Train heads of clients that train at once from `start`, all but the frozen arrays."""
        task, table = task or self.task, some.table
        steps = self.engine.steps(task, some)
        result = train_primal(
            table.features,
            table.targets,
            self.received,
            steps,
            task,
            own=start,
            frozen=frozen,
            offsets=offsets,
        )
        return own_trained(task, some, steps, self.names, start, result.update, result)
