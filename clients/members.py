"""The clients that a host speaks for: who they are, their samples and features, and the engine that trains them.

All of it stays resident between messages: samples, features and the index of the clients are loaded once.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.alignment import ClientAlignment
from clients.attack import Attack, flipped
from clients.engine.choice import explain
from clients.engine.cohort import Engine
from clients.placement import place
from clients.replies import Shapes
from clients.settings import ClientPart
from clients.training import LocalTask
from clients.tuning import tuning_of
from fedgraft.alignment.settings import AdaBn
from fedgraft.attackers import attackers
from fedgraft.compute_settings import Device
from fedgraft.data.ragged import Ragged
from fedgraft.data.tasks import at_task, resolve_tasks
from fedgraft.devices import device_of
from fedgraft.errors import ModelError, WireError
from fedgraft.evaluation import Objective
from fedgraft.models import kept
from fedgraft.models.heads import head_shapes
from fedgraft.models.losses import resolve_loss, target_tensor
from fedgraft.progress import report
from fedgraft.randomness import name_keys
from fedgraft.threads import numpy_threads
from fedgraft.wire.records import Arrays, expect
from fedgraft.workspace import open_workspace

if TYPE_CHECKING:
    import torch

    from fedgraft.data.federation import Federation

Groups = dict[str, dict[str, NDArray[Any]]]
"""The arrays of a request or a reply, by group and name."""

USUAL_FEATURE_DIM = 1280
"""For placing clients where nobody said how long a feature vector is: hosts that lack the backbone must agree too."""


@dataclass(frozen=True)
class Asked:
    """What a request to train or evaluate is about, checked.

    Attributes:
        features: `(num_samples, feature_dim)` of all samples; activations at the cut past which blocks are trained.
        head: the head that was received, and the blocks with it.
        index: `(num_clients,)` which clients, ascending positions among the host's.
        objective: what the head is for, and which blocks lie before it.
    """

    features: NDArray[Any]
    head: Arrays
    index: NDArray[np.int64]
    objective: Objective

    @property
    def shapes(self) -> Shapes:
        """Return the shapes of the head's arrays."""
        return {name: value.shape for name, value in self.head.items()}


class Members:
    """The clients of one host of a simulation, or of a site.

    Args:
        part: what the client side reads of the scenario.
        number: the host's number, from 0.
        num_hosts: how many hosts the simulation has.
        threads: groups of clients that train side by side, and chunks of rows that are evaluated side by side.
        feature_dim: length of a feature vector, as the run's own process found it; 0: not known.
        device: what trains and evaluates heads.

    Raises:
        LaunchError: the device is `cuda`, and this process sees none.
    """

    def __init__(
        self, part: ClientPart, number: int, num_hosts: int, threads: int, feature_dim: int, device: Device
    ) -> None:
        self.part = part
        self.threads = threads
        self._device_name = device
        if device == "cuda":
            _ = self.device  # refused before anything is read
        workspace = open_workspace(part.data, part.seed, part.backbone, part.features)
        self.workspace = workspace.pooled() if part.in_stages()[0].strategy.pools else workspace
        federation = self.workspace.federation
        self._whole, self._task_number = federation, 0
        self._tasks = resolve_tasks(part.data, federation.samples.task, federation.samples.label_names)
        num_outputs = self.workspace.num_outputs
        self.placement = place(
            federation.all_train.counts,
            part.shards,
            num_hosts,
            feature_dim or USUAL_FEATURE_DIM,
            num_outputs,
            part.head,
            part.train,
        )
        self.clients: NDArray[np.int64] = np.flatnonzero(self.placement.hosts == number)
        """Positions of the host's clients among the federation's; a request's index counts in this list."""
        self.shards = self.placement.shards[self.clients]
        self.names = [federation.client_names[position] for position in self.clients]
        self.keys = name_keys(self.names)
        samples = federation.samples
        loss = resolve_loss(part.loss, samples.task, samples.label_names)
        self.objective = Objective(part.head, loss, samples.task, num_outputs)
        self.attack = self._attack()
        parts = federation.all_train, federation.validation
        self._alignment = None
        if part.align is not None and not isinstance(part.align, AdaBn):
            self._alignment = ClientAlignment(part.align, self.clients, *parts)
        self._weights_digest: str | None = None
        self._engine_kept: tuple[NDArray[Any], NDArray[Any], Engine] | None = None

    def in_stage(self, part: ClientPart) -> Members:
        """Return the same clients under the settings of a stage; where they stand stays as the scenario has it."""
        if part is self.part:
            return self
        other = copy.copy(self)
        other.part = part
        if part.train != self.part.train:  # else what the engine keeps, such as Gram matrices, serves on
            other._engine_kept = None
        return other

    def with_training(self, federation: Federation) -> Members:
        """Return the same clients with other training samples, or other targets of these."""
        other = copy.copy(self)
        other.workspace = self.workspace.with_federation(federation)
        other._engine_kept = None
        other.__dict__.pop("_wrong_targets", None)
        return other

    @functools.cached_property
    def device(self) -> torch.device:
        """What trains and evaluates heads; named late, since torch takes long to import."""
        return device_of(self._device_name)

    def take_task(self, number: int) -> None:
        """Let clients have the samples that they have during a task (from 1), where classes arrive task by task.

        Args:
            number: the task; 0: all samples are there.

        Raises:
            WireError: the scenario has no such task.
        """
        if number == self._task_number:
            return
        if number > len(self._tasks):
            raise WireError(f"the request is about task {number}; the scenario has {len(self._tasks)} tasks")
        self.workspace = self.workspace.with_federation(at_task(self._whole, self._tasks, number))
        self._task_number, self._engine_kept = number, None

    def task_counts(self) -> dict[str, NDArray[np.int64]]:
        """Return how many samples of each task's classes each client has, `(num_clients, num_tasks)`; {}: no tasks."""
        samples, parts = self._whole.samples, {"train": self._whole.train, "validation": self._whole.validation}
        counts = {}
        for name, part in parts.items() if self._tasks else ():
            columns = [part.keep(np.isin(samples.targets[part.indices], task)).counts for task in self._tasks]
            counts[f"task_{name}"] = np.stack(columns, axis=1)[self.clients]
        return counts

    def asked(self, weights_digest: str, groups: Groups, round_number: int) -> Asked:
        """Return what a request is about: the features by its backbone, its head, and the clients that it names.

        Raises:
            WireError: this host does not have those weights, or the head or the clients are not of this scenario.
        """
        unfreeze = self.part.unfreeze
        cut = None if unfreeze is None else unfreeze.cut_at(round_number - self.part.rounds_before)
        if cut is None:
            inputs, objective = self.features(weights_digest, groups), self.objective
            shapes = head_shapes(self.part.head, inputs.shape[1], objective.num_outputs)
        else:
            self._use(weights_digest)
            unfrozen = self.workspace.unfrozen(cut, unfreeze)
            inputs, objective = unfrozen.activations, replace(self.objective, blocks=unfrozen.blocks)
            shapes = head_shapes(self.part.head, unfrozen.blocks.feature_dim, objective.num_outputs)
            shapes |= unfrozen.blocks.shapes
        head = groups.get("head")
        expect(head, shapes, "the request's head", np.dtype(np.float32))
        return Asked(inputs, head or {}, self.index(groups), objective)

    def index(self, groups: Groups) -> NDArray[np.int64]:
        """Return the clients that a request names, as positions in the host's description.

        Raises:
            WireError: it names none, or others than the host's.
        """
        index = groups.get("clients", {}).get("index")
        if index is None or index.dtype != np.int64 or index.ndim != 1:
            raise WireError("the request names no clients; expected clients.index, int64 positions")
        if len(index) and (index.min() < 0 or index.max() >= len(self.clients) or (np.diff(index) <= 0).any()):
            raise WireError(
                f"the request names clients {index.min()} to {index.max()} of this host's {len(self.clients)}; "
                "expected ascending positions in its description"
            )
        return index

    def own_digests(self) -> list[str]:
        """Return the digests of all weights that this machine has and could use for the scenario's backbone."""
        local = [] if self._local_digest is None else [self._local_digest]
        return [*local, *(digest for digest in kept.digests() if digest not in local)]

    def features(self, weights_digest: str, groups: Groups) -> NDArray[Any]:
        """Return the features of all samples, by the run's own backbone and no other, aligned if the scenario says so.

        Args:
            weights_digest: the backbone's.
            groups: of the request, which says what features are aligned onto.

        Raises:
            WireError: this host does not have those weights, or what features are aligned onto is missing or wrong.
        """
        if isinstance(self.part.align, AdaBn):
            self._use(weights_digest)
            return self.workspace.adapted(self.part.align)
        features = self.raw(weights_digest)
        if self._alignment is None:
            return features
        with numpy_threads(self.threads):
            return self._alignment.of(features, groups.get("alignment"))

    def raw(self, weights_digest: str) -> NDArray[Any]:
        """Return the features of all samples as the run's own backbone gives them.

        Raises:
            WireError: this host does not have those weights.
        """
        self._use(weights_digest)
        return self.workspace.features

    def _use(self, weights_digest: str) -> None:
        """Take the run's own backbone and no other."""
        if weights_digest != self._weights_digest:
            own = self.own_digests()
            if weights_digest not in own:
                raise WireError(
                    f"the run's backbone has weights {weights_digest[:12]}, this host has "
                    f"{', '.join(digest[:12] for digest in own) or 'none'}; send query.backbone first"
                )
            self._weights_digest = weights_digest
        self.workspace.use_weights(None if weights_digest == self._local_digest else weights_digest)

    def targets_of(self, round_number: int) -> NDArray[Any]:
        """Return the targets that clients train on, of all samples."""
        return self._wrong_targets if self.attack and self.attack.flips_labels(round_number) else self._true_targets

    @property
    def targets_of_sums(self) -> NDArray[Any]:
        """Return the targets that sums of features are made of: they know no rounds, so that liars always lie."""
        flips = self.attack is not None and self.attack.flips_labels_at_all
        return self._wrong_targets if flips else self._true_targets

    def samples(
        self, index: NDArray[np.int64], features: NDArray[Any], targets: NDArray[Any]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield features and targets of each client's training part."""
        import torch

        train, objective = self.workspace.federation.train, self.objective
        for client in self.clients[index]:
            rows = train.of(int(client))
            own = target_tensor(targets[rows], objective.task, objective.loss, objective.num_outputs)
            yield torch.from_numpy(np.asarray(features[rows], dtype=np.float32)), own

    def training_rows(self, index: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the rows of each client's training part."""
        return [self.workspace.federation.train.of(int(client)) for client in self.clients[index]]

    def task_of(self, asked: Asked, round_number: int) -> LocalTask:
        """Return what clients train in a round for a request, blocks of the backbone included."""
        task, blocks = self.task(round_number), asked.objective.blocks
        if blocks is None or self.part.unfreeze is None:
            return task
        tuning = tuning_of(self.part.unfreeze, blocks, round_number - self.part.rounds_before)
        return replace(task, objective=asked.objective, tuning=tuning)

    def task(self, round_number: int) -> LocalTask:
        """Return what clients train of the head in a round."""
        part = self.part
        earlier = part.rounds_before or max(self._task_number - 1, 0) * part.server.rounds
        return LocalTask(
            self.objective, part.train, part.seed, round_number, part.server.rounds, earlier_rounds=earlier
        )

    def engine(self, features: NDArray[Any], targets: NDArray[Any]) -> Engine:
        """Return the engine of these features and targets; it keeps buckets and Gram matrices between rounds."""
        found = self._engine_kept
        if found is None or found[0] is not features or found[1] is not targets:
            engine = Engine(
                features,
                targets,
                self.workspace.federation.train,
                self.clients,
                self.keys,
                self.names,
                self.task(self.part.rounds_before + 1),
                self.shards,
                device=self.device,
            )
            num_outputs = self.objective.num_outputs
            for line in explain(engine.buckets, features.shape[1], num_outputs, self.part.train):
                report("explain", text=line)
            self._engine_kept = found = (features, targets, engine)
        return found[2]

    def _attack(self) -> Attack | None:
        """Return the scenario's attack, as this host's clients take part in it; None if there is none."""
        settings, federation = self.part.attack, self.workspace.federation
        if settings is None:
            return None
        lies = attackers(settings, self.part.seed, federation.client_names, federation.train.counts)[self.clients]
        return Attack(settings, self.part.seed, lies, self.names)

    @property
    def _true_targets(self) -> NDArray[Any]:
        return self.workspace.federation.samples.targets

    @functools.cached_property
    def _wrong_targets(self) -> NDArray[Any]:
        """The targets with those of liars' training samples flipped."""
        if self.attack is None:
            return self._true_targets
        rows, _ = joined(self._whole.train, self.clients[self.attack.lies])
        return flipped(self._true_targets, rows, self.objective.task, self.objective.num_outputs)

    @functools.cached_property
    def _local_digest(self) -> str | None:
        """The digest of the weights that this machine finds by the backbone's name; None if it finds none."""
        from fedgraft.models.registry import describe

        try:
            return describe(self.part.backbone).weights_digest
        except ModelError:
            return None


def joined(parts: Ragged, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of several clients one after another, and for each row the turn of its client."""
    lengths = parts.counts[positions]
    owners = np.repeat(np.arange(len(positions)), lengths)
    starts = np.repeat(parts.offsets[positions] - np.concatenate(([0], lengths.cumsum()[:-1])), lengths)
    return parts.indices[starts + np.arange(len(owners))], owners
