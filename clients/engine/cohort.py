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
from clients.engine.dual import DualControl, DualResult, head_update, train_dual
from clients.engine.fit import Fit, fit
from clients.engine.primal import PrimalControl, PrimalResult, Stacked, stacked_forward, train_primal
from clients.engine.tables import Table, Tables
from clients.halves import Control
from clients.replies import Trained
from clients.settings import Sgd
from clients.state.tables import Layout
from clients.training import LocalTask, diverged
from fedgraft.data.ragged import Ragged
from fedgraft.devices import tf32
from fedgraft.evaluation import Objective
from fedgraft.models.heads import forward, head_shapes
from fedgraft.threads import in_order

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Controlled:
    """The control variates of some clients that trained at once.

    Attributes:
        shared: the federation's.
        outputs: `(num_clients, n, C)` of the federation's; only in the dual form.
        change: of each client's, as coefficients in the dual form, otherwise `(num_clients, *shape)`.
    """

    shared: Mapping[str, torch.Tensor]
    outputs: torch.Tensor | None
    change: torch.Tensor | Stacked


@dataclass(frozen=True)
class TrainedGroup:
    """Some clients that trained at once, after their training."""

    turns: NDArray[np.int64]
    num_samples: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    mean_losses: NDArray[np.float64]
    result: DualResult | PrimalResult
    table: Table
    start: torch.Tensor | None
    head: Mapping[str, torch.Tensor]
    objective: Objective
    controlled: Controlled | None = None

    @property
    def losses_before(self) -> NDArray[np.float64]:
        """Mean loss of the received head over each client's training samples, `(num_clients,)`."""
        return self._before.losses

    @property
    def losses_after(self) -> NDArray[np.float64]:
        """Mean loss of each client's own head over its training samples, `(num_clients,)`."""
        return self._after.losses

    @property
    def scores_after(self) -> NDArray[np.float64]:
        """Mean score of each client's own head over its training samples, `(num_clients,)`."""
        return self._after.scores

    @functools.cached_property
    def _before(self) -> Fit:
        outputs = self.start
        if outputs is None:
            features = self.table.features
            flat = forward(self.objective.head, self.head, features.flatten(0, 1))
            outputs = flat.view(*features.shape[:2], -1)
        return fit(outputs, self.table.targets, self.num_samples, self.objective)

    @functools.cached_property
    def _after(self) -> Fit:
        """In the dual form the outputs are `s F0 + t C + K A`, of the outputs `F0` at the start and `C` of control."""
        import torch

        if isinstance(self.result, PrimalResult):
            own = {name: self.head[name] + value for name, value in self.result.update.items()}
            outputs = stacked_forward(self.objective.head, own, self.table.features)
        elif self.start is not None and self.table.gram is not None:
            scaled = self.result.scale[:, None, None] * self.start
            outputs = torch.baddbmm(scaled, self.table.gram, self.result.coefficients)
            if self.result.shift is not None and self.controlled is not None and self.controlled.outputs is not None:
                outputs += self.result.shift[:, None, None] * self.controlled.outputs
        else:
            raise TypeError("a dual result has outputs at the start and Gram matrices")
        return fit(outputs, self.table.targets, self.num_samples, self.objective)

    def weighted_sum(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k update_k`; in the dual form one product over all samples, and no client's head."""
        factors = self._factors(weights)
        if isinstance(self.result, PrimalResult):
            return _weighted(self.result.update, factors)
        sums = self._spanned(self.result.coefficients, factors)
        moved = float((factors * (self.result.scale.double() - 1)).sum())
        for name, value in sums.items():
            value += moved * self.head[name].double().cpu().numpy()
        if self.controlled is not None and self.result.shift is not None:
            shifted = float((factors * self.result.shift.double()).sum())
            for name, value in sums.items():
                value += shifted * self.controlled.shared[name].double().cpu().numpy()
        return sums

    def square_norms(self) -> NDArray[np.float64]:
        """Return each update's squared norm over the whole head; in the dual form no client's head is built.

        There an update is `(s - 1) W0 + A^T X`, so its square is `(s - 1)^2 |W0|^2 + 2 (s - 1) <A, X W0^T> +
        trace(A^T K A)`: products with the Gram matrices and the outputs at the start, which are at hand.
        """
        import torch

        gram, start = self.table.gram, self.start
        if isinstance(self.result, PrimalResult) or self.result.shift is not None or gram is None or start is None:
            update = self.result.update if isinstance(self.result, PrimalResult) else self._dual_updates()
            squares = [value.double().flatten(1).square().sum(1).cpu().numpy() for value in update.values()]
            return np.asarray(np.sum(squares, axis=0))
        coefficients, moved = self.result.coefficients, self.result.scale.double() - 1
        inner = (coefficients * start).sum((1, 2), dtype=torch.float64)
        square = (coefficients * (gram @ coefficients)).sum((1, 2), dtype=torch.float64) + 2 * moved * inner
        square += moved.square() * sum(float(value.double().square().sum()) for value in self.head.values())
        return np.asarray(square.clamp_min(0).cpu().numpy())

    def state_change(self, state: str, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k (new_k - old_k)` of a state."""
        if state != "control" or self.controlled is None:
            raise KeyError(f"these clients trained without the state {state!r}")
        change, factors = self.controlled.change, self._factors(weights)
        return _weighted(change, factors) if isinstance(change, dict) else self._spanned(change, factors)

    def _factors(self, weights: NDArray[np.float64]) -> torch.Tensor:
        import torch

        return torch.from_numpy(weights).to(self.table.rows.device)

    def _spanned(self, coefficients: torch.Tensor, factors: torch.Tensor) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k factors_k coefficients_k^T X_k`, and with a bias what it gets by the constant feature."""
        import torch

        rows = self.table.packed(coefficients * factors.to(coefficients.dtype)[:, None, None])
        sums = {"weight": self.table.rows.weighted_sum(self.table.samples, rows)}
        return sums | {"bias": rows.sum(0, dtype=torch.float64).cpu().numpy()} if "bias" in self.head else sums

    def updates(self) -> dict[str, NDArray[np.float32]]:
        """Return every client's update, `(num_clients, *shape)`."""
        update = self.result.update if isinstance(self.result, PrimalResult) else self._dual_updates()
        return {name: value.float().cpu().numpy() for name, value in update.items()}

    def _dual_updates(self) -> dict[str, torch.Tensor]:
        if not isinstance(self.result, DualResult):
            raise TypeError("a primal result holds its updates")
        shared = None if self.controlled is None else self.controlled.shared
        return head_update(self.result, self.table.features, self.head, shared)


def _weighted(stacked: Stacked, factors: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    import torch

    return {name: torch.einsum("k,k...->...", factors, value.double()).cpu().numpy() for name, value in stacked.items()}


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
            lambda some: each(self._train_group(task, some.clients, some.table, head, some.turns, mu, control)),
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
        self,
        task: LocalTask,
        clients: NDArray[np.int64],
        table: Table,
        head: Mapping[str, torch.Tensor],
        turns: NDArray[np.int64],
        mu: float,
        control: Control | None,
    ) -> TrainedGroup:
        train, sizes = task.train, table.sizes
        steps = plan_steps(train, task.seed, task.round_number, self._keys[clients], sizes)
        result: DualResult | PrimalResult
        start: torch.Tensor | None = None
        dual_control: DualControl | None = None
        if table.gram is not None and isinstance(train.optimizer, Sgd):
            start, dual_control = _outputs(table, head, clients, control)
            result = train_dual(
                table.gram,
                start,
                table.targets,
                steps,
                task,
                mu,
                dual_control,
            )
        else:
            own = None if control is None else control.own.heads(clients)
            result = train_primal(
                table.features,
                table.targets,
                head,
                steps,
                task,
                mu,
                None if control is None or own is None else PrimalControl(control.shared, _tensors(own, head)),
            )
        self._check_finite(task, clients, result, steps.lengths)
        seen = result.seen.cpu().numpy()
        losses = result.loss_sums.cpu().numpy() / np.maximum(seen, 1)
        controlled = None if control is None else _keep(control, clients, result, dual_control)
        return TrainedGroup(turns, sizes, steps.lengths, losses, result, table, start, head, task.objective, controlled)

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


def _outputs(
    table: Table, head: Mapping[str, torch.Tensor], clients: NDArray[np.int64], control: Control | None
) -> tuple[torch.Tensor, DualControl | None]:
    """Return a linear head's outputs, `(num_clients, n, C)`, and control variates; one product for both."""
    import torch

    both = dict(head)
    if control is not None:
        both = {name: torch.cat([value, control.shared[name]]) for name, value in head.items()}
    outputs = table.padded(table.rows.outputs(table.samples, both["weight"], both.get("bias")))
    if control is None:
        return outputs, None
    start, shared = outputs.chunk(2, dim=2)
    own = torch.from_numpy(control.own.coefficients(clients, table.targets.shape[1])).to(start.device)
    return start.contiguous(), DualControl(shared, own)


def _tensors(stacked: Mapping[str, NDArray[Any]], like: Mapping[str, torch.Tensor]) -> Stacked:
    """Return arrays as tensors on the device of the tensor of the same name."""
    import torch

    return {name: torch.from_numpy(value).to(like[name].device) for name, value in stacked.items()}


def _keep(
    control: Control, clients: NDArray[np.int64], result: DualResult | PrimalResult, dual_control: DualControl | None
) -> Controlled | None:
    """Write the control variates of clients that trained at once."""
    if result.gradients is None:
        return None
    if isinstance(result, DualResult):
        if dual_control is None:
            return None
        own = dual_control.own
        # FedDyn's federation has no variate and its clients no weight decay: the update is `coefficients^T X`
        coefficients = own - control.pull * result.coefficients if control.pull else result.gradients
        control.own.keep_coefficients(clients, coefficients.cpu().numpy())
        return Controlled(control.shared, dual_control.outputs, coefficients - own)
    before, following = _tensors(control.own.heads(clients), result.gradients), result.gradients
    if control.pull:
        following = {name: value - control.pull * result.update[name] for name, value in before.items()}
    control.own.keep_heads(clients, {name: value.cpu().numpy() for name, value in following.items()})
    change = {name: value - before[name] for name, value in following.items()}
    return Controlled(control.shared, None, change)
