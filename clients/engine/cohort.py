"""Trains the clients that a request names, many at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clients.engine.batches import Steps, plan_steps
from clients.engine.choice import Bucket, buckets, groups
from clients.engine.controls import keep_control, primal_control, start_outputs
from clients.engine.dual import DualControl, DualResult, train_dual
from clients.engine.primal import PrimalResult, train_primal
from clients.engine.tables import Table, Tables
from clients.engine.trained_group import TrainedGroup
from clients.halves import Control
from clients.replies import Trained
from clients.settings import Sgd
from clients.state.tables import Layout
from clients.training import LocalTask, diverged
from fedgraft.data.ragged import Ragged
from fedgraft.devices import tf32
from fedgraft.models.heads import head_shapes
from fedgraft.threads import in_order

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class AtOnce:
    """Some clients that train at once, in falling order of their steps.

    Attributes:
        clients: `(num_clients,)` positions among the host's.
        turns: `(num_clients,)` their places in the request.
        table: their samples.
    """

    clients: NDArray[np.int64]
    turns: NDArray[np.int64]
    table: Table


class Engine:
    """The heads of a host's clients; buckets and Gram matrices stay between rounds.

    Args:
        features: `(num_samples, D)` of all samples; memory-mapped or not, read in place twice a round.
        targets: of all samples.
        train: each client's training samples, by the federation's positions.
        clients: `(num_clients,)` positions of the host's clients among the federation's.
        keys: `(num_clients,)` the clients' keys.
        names: the clients' names, for errors.
        task: what is the same for every client in every round; the round's number is given later.
        shards: `(num_clients,)` shard numbers; clients of two never train at once. Who trains beside a client
            decides its rounding, so that must not depend on which shards share a host. Default: one shard.
        dtype: of all computation.
        device: that computes; features and Gram matrices stay on it if they fit. Default: the CPU.
    """

    def __init__(
        self,
        features: NDArray[Any],
        targets: NDArray[Any],
        train: Ragged,
        clients: NDArray[np.int64],
        keys: NDArray[np.uint64],
        names: Sequence[str],
        task: LocalTask,
        shards: NDArray[np.int64] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        import torch

        self._features, self._clients, self._keys, self._names = features, clients, keys, names
        self._dtype = dtype or torch.float32
        objective, sizes = task.objective, train.counts[clients]
        self._num_outputs = objective.num_outputs
        self._shapes = head_shapes(objective.head, features.shape[1], objective.num_outputs)
        self._num_parameters = sum(int(np.prod(shape)) for shape in self._shapes.values())
        self._by_shard: list[list[Bucket]] = []
        for shard in [None] if shards is None else np.unique(shards):
            members = np.arange(len(clients)) if shard is None else np.flatnonzero(shards == shard)
            found = buckets(sizes[members], features.shape[1], objective.num_outputs, objective.head, task.train)
            self._by_shard.append([Bucket(members[bucket.clients], bucket.sizes, bucket.form) for bucket in found])
        self._device, self._precision = device or torch.device("cpu"), task.train.compute
        self._tables = Tables(features, targets, train, clients, objective, self._dtype, self._device, self._precision)

    @property
    def device(self) -> torch.device:
        """What computes."""
        return self._device

    @property
    def buckets(self) -> list[Bucket]:
        """All buckets, shard by shard."""
        return [bucket for found in self._by_shard for bucket in found]

    @property
    def layout(self) -> Layout:
        """How the clients' state is kept."""
        sizes, dual = np.zeros(len(self._clients), dtype=np.int64), np.zeros(len(self._clients), dtype=np.bool_)
        for bucket in self.buckets:
            sizes[bucket.clients], dual[bucket.clients] = bucket.sizes, bucket.form == "dual"
        return Layout(sizes, dual, self._num_outputs, self._shapes)

    def run(
        self,
        task: LocalTask,
        head: Mapping[str, torch.Tensor],
        index: NDArray[np.int64],
        mu: float = 0.0,
        control: Control | None = None,
        threads: int = 1,
    ) -> Iterator[Trained]:
        """Do what `run_each` does, and yield each group itself."""
        return self.run_each(lambda trained: trained, task, head, index, mu, control, threads)

    def run_each(
        self,
        each: Callable[[Trained], T],
        task: LocalTask,
        head: Mapping[str, torch.Tensor],
        index: NDArray[np.int64],
        mu: float = 0.0,
        control: Control | None = None,
        threads: int = 1,
    ) -> Iterator[T]:
        """Train the clients at `index`, ascending positions among the host's, in groups of those that train at once.

        Clients without samples are not trained. What is yielded is the same to the last bit whatever `threads` is:
        groups are made of shapes alone, each is trained by one thread, and they come in order.

        Args:
            each: called with each group, by the thread that trained it; what it returns is yielded.
            task: the round's.
            head: the head that was received.
            index: which clients.
            mu: weight of the proximal term; 0: none.
            control: control variates; those of the clients that train are written anew.
            threads: groups that train side by side.

        Raises:
            TrainingError: a client's head is not finite after its training.
        """
        head = {name: value.to(self._device) for name, value in head.items()}
        if control is not None:
            shared = {name: value.to(self._device) for name, value in control.shared.items()}
            control = replace(control, shared=shared)
        return self.at_once(
            lambda some: each(self._train_group(task, some, head, mu, control)),
            task,
            index,
            threads,
        )

    def at_once(
        self, train: Callable[[AtOnce], T], task: LocalTask, index: NDArray[np.int64], threads: int = 1
    ) -> Iterator[T]:
        """Yield what `train` returns of the clients at `index` that train at once; `run_each` says how threads work."""
        turns = np.full(len(self._clients), -1, dtype=np.int64)
        turns[index] = np.arange(len(index))

        def of(group: list[tuple[int, Bucket, NDArray[np.int64]]]) -> T:
            clients = np.concatenate([bucket.clients[rows] for _, bucket, rows in group])
            return train(AtOnce(clients, turns[clients], self._tables.of(group)))

        with tf32(self._precision == "tf32"):
            yield from in_order((functools.partial(of, group) for group in self._groups(turns, task)), threads)

    def steps(self, task: LocalTask, some: AtOnce) -> Steps:
        """Return the steps of clients that train at once."""
        return plan_steps(task.train, task.seed, task.round_number, self._keys[some.clients], some.table.sizes)

    def _groups(
        self, turns: NDArray[np.int64], task: LocalTask
    ) -> Iterator[list[tuple[int, Bucket, NDArray[np.int64]]]]:
        """Yield who trains at once: rows of buckets, each with its number; of all clients with a turn, not -1."""
        first = 0
        for found in self._by_shard:
            chosen = [np.flatnonzero(turns[bucket.clients] >= 0) for bucket in found]
            for group in groups(found, chosen, self._features.shape[1], self._num_parameters, task.train):
                yield [(first + number, found[number], rows) for number, rows in group]
            first += len(found)

    def _train_group(
        self, task: LocalTask, some: AtOnce, head: Mapping[str, torch.Tensor], mu: float, control: Control | None
    ) -> TrainedGroup:
        """Train the received head of clients that train at once; write their control variates, if they have any."""
        table, clients, steps = some.table, some.clients, self.steps(task, some)
        result: DualResult | PrimalResult
        start: torch.Tensor | None = None
        dual_control: DualControl | None = None
        if table.gram is not None and isinstance(task.train.optimizer, Sgd):
            start, dual_control = start_outputs(table, head, clients, control)
            result = train_dual(table.gram, start, table.targets, steps, task, mu, dual_control)
        else:
            variates = None if control is None else primal_control(control, clients, head)
            result = train_primal(table.features, table.targets, head, steps, task, mu, variates)
        self._check_finite(task, clients, result, steps.lengths)
        losses = result.loss_sums.cpu().numpy() / np.maximum(result.seen.cpu().numpy(), 1)
        controlled = None if control is None else keep_control(control, clients, result, dual_control)
        return TrainedGroup(
            some.turns, table.sizes, steps.lengths, losses, result, table, start, head, task.objective, controlled
        )

    def _check_finite(
        self, task: LocalTask, clients: NDArray[np.int64], result: DualResult | PrimalResult, lengths: NDArray[np.int64]
    ) -> None:
        if isinstance(result, DualResult):
            values = [result.coefficients, result.scale[:, None]]
        else:
            values = list(result.update.values())
        finite = [value.flatten(1).isfinite().all(1).cpu().numpy() for value in values]
        wrong = np.flatnonzero(~np.logical_and.reduce(finite))
        if len(wrong):
            place = int(wrong[0])
            raise diverged(task, self._names[int(clients[place])], int(lengths[place]))
