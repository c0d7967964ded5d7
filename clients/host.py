"""A host: a process that speaks for one or more clients, and what it answers to each request.

It stays resident between messages: samples, features and the index of its clients are loaded once.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.attack import Attack, flipped
from clients.cross_validation import CrossValidation
from clients.engine.choice import explain
from clients.engine.cohort import Engine
from clients.halves import HALVES, Control, HalfKind, build_half
from clients.leave_out import HeadsWithout
from clients.local_solver import LocalSolver
from clients.mixtures import mixtures
from clients.personal.cohort import Evaluation, PersonalCohort
from clients.personal.heads import OwnHeads
from clients.personal.training import OwnTrained
from clients.placement import place
from clients.replies import Part, StackReply, SumReply, Terms, Trained
from clients.settings import ClientPart
from clients.state.tables import Layout
from clients.state.versions import ClientStates
from clients.statistics import class_rows, statistics_sums
from clients.training import LocalTask, diverged, train_one_by_one
from fedgraft import __version__
from fedgraft.attackers import attackers
from fedgraft.compute_settings import Device
from fedgraft.data.ragged import Ragged
from fedgraft.devices import device_of
from fedgraft.errors import Fault, ModelError, ScenarioError, WireError, listed
from fedgraft.evaluation import Objective, evaluate_rows
from fedgraft.models import kept
from fedgraft.models.heads import as_tensors, head_shapes
from fedgraft.models.losses import resolve_loss, target_tensor
from fedgraft.progress import report
from fedgraft.randomness import name_keys
from fedgraft.recipes import PARAMETERS, Recipe
from fedgraft.threads import numpy_threads, torch_threads
from fedgraft.wire.protocol import code_digest
from fedgraft.wire.records import Arrays, expect
from fedgraft.wire.requests import (
    BackboneReply,
    BackboneRequest,
    ClassSumsReply,
    ClassSumsRequest,
    CrossValidateReply,
    CrossValidateRequest,
    Description,
    EvaluateReply,
    EvaluateRequest,
    LeaveOutReply,
    LeaveOutRequest,
    MixturesReply,
    MixturesRequest,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
)
from fedgraft.wire.statistics import check_statistics_size
from fedgraft.workspace import open_workspace

if TYPE_CHECKING:
    import torch

Groups = dict[str, dict[str, NDArray[Any]]]

FITS: dict[str, Callable[[Trained], NDArray[np.float64]]] = {
    "train_loss_before": lambda trained: trained.losses_before,
    "train_loss_after": lambda trained: trained.losses_after,
    "train_score": lambda trained: trained.scores_after,
}
"""What is computed of each client's own training samples only where each client's metrics are asked for."""

RUNS_AT_ONCE = 4
"""Runs whose client state a host keeps in memory; one that is asked for again is read from its files."""

USUAL_FEATURE_DIM = 1280
"""For placing clients where nobody said how long a feature vector is: hosts that lack the backbone must agree too."""


@dataclass(frozen=True)
class _Finished:
    """What is left of clients that trained at once, once they are added to a reply."""

    turns: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    mean_losses: NDArray[np.float64]
    fits: Mapping[str, NDArray[np.float64]]
    part: Part


ANSWERS_KEPT = 64
"""Last answers under halves that keep state, one a run and shard, in case that they are asked for again."""


@dataclass(frozen=True)
class Answer:
    """What a host answered to a request to train."""

    request: TrainRequest
    asked: Groups
    body: TrainReply
    groups: Groups

    def answers(self, request: TrainRequest, asked: Groups) -> bool:
        """Return whether this is the answer to a request, to the last bit of its arrays."""
        if request != self.request or asked.keys() != self.asked.keys():
            return False
        pairs = [(asked[group], self.asked[group]) for group in asked]
        return all(
            one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
            for one, other in pairs
        )


class Host:
    """Speaks for the clients of one host of a simulation.

    Args:
        part: what the client side reads of the scenario.
        number: this host's number, from 0.
        num_hosts: how many hosts the simulation has.
        threads: groups of clients that train side by side, and chunks of rows that are evaluated side by side.
        feature_dim: length of a feature vector, as the run's own process found it; 0: not known.
        device: what trains and evaluates heads.

    Raises:
        LaunchError: the device is `cuda`, and this process sees none.
    """

    def __init__(
        self,
        part: ClientPart,
        number: int,
        num_hosts: int,
        threads: int = 1,
        feature_dim: int = 0,
        device: Device = "auto",
    ) -> None:
        self.part = part
        self.num_hosts = num_hosts
        self.threads = threads
        self._device_name = device
        if device == "cuda":
            _ = self.device  # refused before anything is read
        workspace = open_workspace(part.data, part.seed, part.backbone, part.features)
        self.workspace = workspace.pooled() if part.strategy.pools else workspace
        federation = self.workspace.federation
        num_outputs = self.workspace.num_outputs
        self._placement = place(
            federation.train.counts,
            part.shards,
            num_hosts,
            feature_dim or USUAL_FEATURE_DIM,
            num_outputs,
            part.head,
            part.train,
        )
        self.clients: NDArray[np.int64] = np.flatnonzero(self._placement.hosts == number)
        """Positions of this host's clients among the federation's; a request's index counts in this list."""
        self._shards = self._placement.shards[self.clients]
        self.names = [federation.client_names[position] for position in self.clients]
        self.keys = name_keys(self.names)
        samples = federation.samples
        loss = resolve_loss(part.loss, samples.task, samples.label_names)
        self.objective = Objective(part.head, loss, samples.task, num_outputs)
        self.attack = self._attack()
        self._weights_digest: str | None = None
        self._engine_kept: tuple[NDArray[Any], NDArray[Any], Engine] | None = None
        self._states_kept: dict[tuple[str, str, Path | None], ClientStates] = {}
        self._answered: dict[tuple[str, int], Answer] = {}

    def _attack(self) -> Attack | None:
        """Return the scenario's attack, as this host's clients take part in it; None if there is none."""
        settings, federation = self.part.attack, self.workspace.federation
        if settings is None:
            return None
        lies = attackers(settings, self.part.seed, federation.client_names, federation.train.counts)[self.clients]
        return Attack(settings, self.part.seed, lies, self.names)

    def targets_of(self, round_number: int) -> NDArray[Any]:
        """Return the targets that clients train on, of all samples."""
        return self._wrong_targets if self.attack and self.attack.flips_labels(round_number) else self._true_targets

    @property
    def _true_targets(self) -> NDArray[Any]:
        return self.workspace.federation.samples.targets

    @functools.cached_property
    def _wrong_targets(self) -> NDArray[Any]:
        """The targets with those of liars' training samples flipped."""
        if self.attack is None:
            return self._true_targets
        rows, _ = _joined(self.workspace.federation.train, self.clients[self.attack.lies])
        return flipped(self._true_targets, rows, self.objective.task, self.objective.num_outputs)

    @functools.cached_property
    def device(self) -> torch.device:
        """What trains and evaluates heads; named late, since torch takes long to import."""
        return device_of(self._device_name)

    def describe(self) -> tuple[Description, Groups]:
        """Return which clients this host speaks for, and what it has."""
        federation = self.workspace.federation
        samples = federation.samples
        description = Description(
            code_digest=code_digest(),
            release=__version__,
            task=samples.task,
            num_hosts=self.num_hosts,
            label_names=tuple(samples.label_names),
            feature_dim=samples.features().shape[1] if samples.kind == "features" else 0,
            backbone_digests=tuple(self.own_digests()),
            host_costs=tuple(self._placement.host_costs.tolist()) if self.num_hosts > 1 else (),
        )
        clients: dict[str, NDArray[Any]] = {
            "names": np.frombuffer("\n".join(self.names).encode(), dtype=np.uint8),
            "num_train": federation.train.counts[self.clients],
            "num_validation": federation.validation.counts[self.clients],
        }
        return description, {"clients": clients}

    @functools.cached_property
    def _local_digest(self) -> str | None:
        """The digest of the weights that this machine finds by the backbone's name; None if it finds none."""
        from fedgraft.models.registry import describe

        try:
            return describe(self.part.backbone).weights_digest
        except ModelError:
            return None

    def own_digests(self) -> list[str]:
        """Return the digests of all weights that this machine has and could use for the scenario's backbone."""
        local = [] if self._local_digest is None else [self._local_digest]
        return [*local, *(digest for digest in kept.digests() if digest not in local)]

    def backbone(self, request: BackboneRequest, groups: Groups) -> BackboneReply:
        """Take the manifest of the run's backbone; keep its weights if they came and their digest matches."""
        if request.carries_weights:
            kept.keep(groups.get("weights", {}), request.weights_digest)
        return BackboneReply(has_weights=request.weights_digest in self.own_digests())

    def features(self, weights_digest: str) -> NDArray[Any]:
        """Return the features of all samples, by the run's own backbone and no other.

        Raises:
            WireError: this host does not have those weights.
        """
        if weights_digest != self._weights_digest:
            own = self.own_digests()
            if weights_digest not in own:
                raise WireError(
                    f"the run's backbone has weights {weights_digest[:12]}, this host has "
                    f"{', '.join(digest[:12] for digest in own) or 'none'}; send query.backbone first"
                )
            self._weights_digest = weights_digest
        self.workspace.use_weights(None if weights_digest == self._local_digest else weights_digest)
        return self.workspace.features

    def train(
        self, request: TrainRequest, groups: Groups, state_folder: Path | None = None
    ) -> tuple[TrainReply, Groups]:
        """Train the clients that the request names, and evaluate the head that was received.

        Args:
            request: what is asked for.
            groups: its arrays.
            state_folder: where the run's client state lies; None: in memory only.
        """
        started = time.perf_counter()
        features = self.features(request.weights_digest)
        head, index = self._head(groups, features), self._index(groups)
        states, shared = self._states(request, head, index, features, state_folder), self._shared(request, groups, head)
        if states is not None and request.state is not None:
            last = self._answered.get((request.run_id, request.shard))
            # Asked again, since an answer was lost or late: the state has changed already, and must not change twice.
            if (
                last is not None
                and last.answers(request, groups)
                and states.is_at(request.shard, request.state.becomes)
            ):
                return last.body, last.groups
            if not states.start_from(request.shard, request.state.version):
                return self._without_state(request, len(index), started), {}
            becoming = states.becoming(request.shard, request.state.becomes)
            with becoming if len(index) else contextlib.nullcontext():
                body, out = self._trained(request, head, index, features, states, shared, started)
            if request.state.keep:
                states.keep(request.shard)
            while len(self._answered) >= ANSWERS_KEPT:
                del self._answered[next(iter(self._answered))]
            self._answered[request.run_id, request.shard] = Answer(request, groups, body, out)
            return body, out
        return self._trained(request, head, index, features, None, shared, started)

    def _without_state(self, request: TrainRequest, num_clients: int, started: float) -> TrainReply:
        return TrainReply(
            round_number=request.round_number,
            shard=request.shard,
            num_clients=num_clients,
            scalars={},
            seconds=time.perf_counter() - started,
            has_state=False,
        )

    def _shared(self, request: TrainRequest, groups: Groups, head: Arrays) -> dict[str, dict[str, NDArray[Any]]]:
        """Return what the half has from the server: groups of arrays of the head's shapes."""
        names = _kind(request).shared
        shapes = {f"{group}.{name}": value.shape for group in names for name, value in head.items()}
        extra = groups.get("extra", {})
        expect(extra, shapes, f"the request's arrays for the half {request.half.name!r}", np.dtype(np.float32))
        return {group: {name: extra[f"{group}.{name}"] for name in head} for group in names}

    def _states(
        self,
        request: TrainRequest,
        head: Arrays,
        index: NDArray[np.int64],
        features: NDArray[Any],
        folder: Path | None,
    ) -> ClientStates | None:
        """Return the run's client state for the half that is asked for; None if it keeps none."""
        name, kinds = request.half.name, _kind(request).state
        if bool(kinds) != (request.state is not None):
            says, has = ("a", "none") if request.state else ("no", "some")
            raise WireError(
                f"the request names {says} version of client state, but the half {name!r} keeps {has}; "
                "see Request.keeps_state of the strategy"
            )
        given = dict.fromkeys(state for half in HALVES.values() for state in half.state if state not in kinds)
        if not_given := [state for state in given if state in request.sums]:
            raise WireError(
                f"the strategy asks for the sum {listed(not_given)}, which its client half {name!r} does not give; "
                f"ask for it with {listed(other for other, half in HALVES.items() if not_given[0] in half.state)}"
            )
        if not kinds:
            return None
        return self._states_of(request, name, head, index, features, folder)

    def _states_of(
        self,
        request: TrainRequest | EvaluateRequest,
        half: str,
        head: Arrays,
        index: NDArray[np.int64],
        features: NDArray[Any],
        folder: Path | None,
    ) -> ClientStates:
        """Return the run's client state for a half."""
        if (self._shards[index] != request.shard).any():
            raise WireError(f"the request names clients of other shards than {request.shard}, whose state it names")
        key, kinds = (request.run_id, half, folder), HALVES[half].state
        if key not in self._states_kept:
            layout = self._layout(features, head, request.round_number)
            while len(self._states_kept) >= RUNS_AT_ONCE:
                del self._states_kept[next(iter(self._states_kept))]
            self._states_kept[key] = ClientStates(layout, kinds, self._shards, self.names, folder)
        return self._states_kept[key]

    def _layout(self, features: NDArray[Any], head: Arrays, round_number: int) -> Layout:
        """Return how the clients' state is kept, which follows the form in which they train."""
        if self.part.train.form != "loop":
            return self.engine(features, self.targets_of(round_number)).layout
        sizes = self.workspace.federation.train.counts[self.clients]
        shapes = {name: value.shape for name, value in head.items()}
        return Layout(sizes, np.zeros(len(sizes), dtype=np.bool_), self.objective.num_outputs, shapes)

    def _control(
        self,
        states: ClientStates,
        shared: Mapping[str, Arrays],
        index: NDArray[np.int64],
        head: Arrays,
        request: TrainRequest,
    ) -> Control | None:
        """Return the control variates of the clients of a request, if its half has any."""
        if "control" not in states.tables:
            return None
        own = states.tables["control"]
        if request.half.name != "dynamic":
            return Control(as_tensors(shared["control"]), own, index)
        if self.part.train.optimizer.weight_decay:
            raise WireError("the client half 'dynamic' takes no weight decay; set train.optimizer.weight_decay to 0")
        nothing = {name: np.zeros_like(value) for name, value in head.items()}
        return Control(as_tensors(nothing), own, index, request.half.parameters["mu"])

    def _trained(
        self,
        request: TrainRequest,
        head: Arrays,
        index: NDArray[np.int64],
        features: NDArray[Any],
        states: ClientStates | None,
        shared: Mapping[str, Arrays],
        started: float,
    ) -> tuple[TrainReply, Groups]:
        """Evaluate and train."""
        shapes = {name: value.shape for name, value in head.items()}
        stacked = request.reply == "stack"
        terms = Terms(self._solver(request), request.loss_power)
        reply = StackReply(len(index), shapes) if stacked else SumReply(request.sums, request.scalars, shapes, terms)
        with torch_threads(1):  # `self.threads` are side by side, each on one thread of torch
            evaluated, columns = self._evaluated(request, head, index, features, states)
            per_client = self._train_clients(request, head, index, features, reply, states, shared)
            out = reply.groups() | evaluated
            per_client |= columns
        counted = per_client["num_train"] > 0
        out.setdefault("metrics", {})["train_loss"] = np.array(
            float((per_client["train_loss"] * per_client["num_train"])[counted].sum())
        )
        out["metrics"]["train_count"] = np.array(float(per_client["num_train"].sum()))
        if request.per_client:
            out["clients"] = per_client
        body = TrainReply(
            round_number=request.round_number,
            shard=request.shard,
            num_clients=len(index),
            scalars=reply.numbers,
            seconds=time.perf_counter() - started,
        )
        return body, out

    def _evaluated(
        self,
        request: TrainRequest,
        head: Arrays,
        index: NDArray[np.int64],
        features: NDArray[Any],
        states: ClientStates | None,
    ) -> tuple[Groups, dict[str, NDArray[Any]]]:
        """Evaluate the received head and the clients' own heads as they stand, if that is asked for."""
        if not request.evaluate:
            return {}, {}
        metrics, columns = self._evaluate(head, index, features)
        out = {"metrics": metrics}
        if states is not None and _kind(request).personal == "own":
            cohort = PersonalCohort(self, features, head, index)
            out["personal"], own = cohort.evaluate(_own_heads(states, cohort, _kind(request)).of)
            columns |= own
        return out, columns

    def _solver(self, request: TrainRequest) -> LocalSolver:
        """Return how clients train in the round of a request."""
        train, mu = self.part.train, request.half.parameters.get("mu", 0.0)
        factor = train.schedule.factor(request.round_number, self.part.server.rounds)
        return LocalSolver(train.optimizer, train.optimizer.learning_rate * factor, mu)

    def _train_clients(
        self,
        request: TrainRequest,
        head: Arrays,
        index: NDArray[np.int64],
        features: NDArray[Any],
        reply: SumReply | StackReply,
        states: ClientStates | None,
        shared: Mapping[str, Arrays],
    ) -> dict[str, NDArray[Any]]:
        """Train the clients into the reply; return what is known of each."""

        def finish(clients: Trained) -> _Finished:
            fits = {name: of(clients) for name, of in FITS.items()} if request.per_client else {}
            return _Finished(clients.turns, clients.num_steps, clients.mean_losses, fits, reply.part(clients))

        steps, losses = np.zeros(len(index), dtype=np.int64), np.zeros(len(index))
        fits = {name: np.zeros(len(index)) for name in FITS} if request.per_client else {}
        own: Iterable[Trained] = self._train_own(request, head, index, features, states)
        control = None if states is None else self._control(states, shared, index, head, request)
        shares = _kind(request).shares
        if self.attack is not None and _kind(request).layers:
            shapes = {name: value.shape for name, value in head.items()}
            own = self.attack.sent(own, index, request.round_number, shapes)
        for clients in self._finished(finish, request, head, index, features, control) if shares else map(finish, own):
            reply.add_part(clients.part)
            steps[clients.turns], losses[clients.turns] = clients.num_steps, clients.mean_losses
            for name, values in fits.items():
                values[clients.turns] = clients.fits[name]
        for _ in own:  # beside the shared head; a reply says nothing of it
            pass
        infinite = np.flatnonzero(~np.isfinite(losses))
        if len(infinite):  # the loss can pass what floats hold before the head does
            task = self._task(request.round_number)
            raise diverged(task, self.names[index[infinite[0]]], int(steps[infinite[0]]))
        num_train = self.workspace.federation.train.counts[self.clients[index]]
        return {"index": index, "num_train": num_train, "steps": steps, "train_loss": losses, **fits}

    def _finished(
        self,
        finish: Callable[[Trained], _Finished],
        request: TrainRequest,
        head: Arrays,
        index: NDArray[np.int64],
        features: NDArray[Any],
        control: Control | None,
    ) -> Iterable[_Finished]:
        """Train the clients; call `finish` with those that trained at once, in the thread that did if it can."""
        task, start = self._task(request.round_number), as_tensors(head)
        targets, mu = self.targets_of(request.round_number), request.half.parameters.get("mu", 0.0)
        trained: Iterable[Trained]
        if self.part.train.form == "loop":
            names, adjust = [self.names[position] for position in index], build_half(request.half)
            samples, keys = self.samples(index, features, targets), self.keys[index]
            trained = train_one_by_one(task, start, samples, keys, names, adjust, control)
        else:
            engine = self.engine(features, targets)
            if self.attack is None:
                return engine.run_each(finish, task, start, index, mu, control, self.threads)
            trained = engine.run(task, start, index, mu, control, self.threads)
        if self.attack is not None:  # liars may agree with those of other groups
            shapes = {name: value.shape for name, value in head.items()}
            trained = self.attack.sent(trained, index, request.round_number, shapes)
        return map(finish, trained)

    def _train_own(
        self,
        request: TrainRequest,
        head: Arrays,
        index: NDArray[np.int64],
        features: NDArray[Any],
        states: ClientStates | None,
    ) -> Iterator[OwnTrained]:
        """Train the clients' own heads from where they stand, and keep them; none where the half has none."""
        kind, parameters = _kind(request), request.half.parameters
        cohort, task = PersonalCohort(self, features, head, index), self._task(request.round_number)
        own = None if states is None or kind.personal != "own" else _own_heads(states, cohort, kind)
        groups: Iterable[OwnTrained] = ()
        if kind.layers:
            groups = cohort.train_layers(task, kind.layers, own, int(parameters.get("layer_epochs", 0)))
        elif own is not None:
            groups = cohort.train(task, own.of, parameters.get("pull", 0.0))
        for trained in groups:
            if own is not None:
                own.keep(trained.clients, trained.kept or trained.heads)
            yield trained

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

    def _task(self, round_number: int) -> LocalTask:
        part = self.part
        return LocalTask(self.objective, part.train, part.seed, round_number, part.server.rounds)

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
                self._task(1),
                self._shards,
                device=self.device,
            )
            num_outputs = self.objective.num_outputs
            for line in explain(engine.buckets, features.shape[1], num_outputs, self.part.train):
                report("explain", text=line)
            self._engine_kept = found = (features, targets, engine)
        return found[2]

    def evaluate(
        self, request: EvaluateRequest, groups: Groups, state_folder: Path | None = None
    ) -> tuple[EvaluateReply, Groups]:
        """Evaluate a head on the validation parts of the clients that the request names, and their own heads.

        Args:
            request: what is asked for.
            groups: its arrays.
            state_folder: where the run's client state lies; None: in memory only.
        """
        started = time.perf_counter()
        features = self.features(request.weights_digest)
        head, index = self._head(groups, features), self._index(groups)
        with torch_threads(1):
            own = self._evaluate_own(request, groups, head, index, features, state_folder)
        out: Groups = {}
        if own is not None:
            out["metrics"], per_client = self._evaluate(head, index, features)
            if request.personal is not None:
                out["personal"], columns = own
                per_client |= columns
            if request.per_client:
                out["clients"] = {"index": index} | per_client
        body = EvaluateReply(
            round_number=request.round_number,
            shard=request.shard,
            num_clients=len(index),
            seconds=time.perf_counter() - started,
            has_state=own is not None,
        )
        return body, out

    def _evaluate_own(
        self,
        request: EvaluateRequest,
        groups: Groups,
        head: Arrays,
        index: NDArray[np.int64],
        features: NDArray[Any],
        folder: Path | None,
    ) -> Evaluation | None:
        """Evaluate the clients' own heads, where there are some; None if their state is not here."""
        if request.personal is None:
            return {}, {}
        build_half(request.personal)
        kind, cohort = HALVES[request.personal.name], PersonalCohort(self, features, head, index)
        if kind.personal == "none":
            raise WireError(
                f"the request asks for own heads of the half {request.personal.name!r}, which makes none; "
                f"those that do are {listed(name for name, half in HALVES.items() if half.personal != 'none')}"
            )
        if kind.personal == "fine_tuned":
            return cohort.fine_tuned(self._task(self.part.server.rounds), int(request.personal.parameters["epochs"]))
        if kind.personal == "blended":
            with numpy_threads(self.threads):
                return cohort.blended(groups.get("extra", {}), request.personal.parameters)
        states = self._states_of(request, request.personal.name, head, index, features, folder)
        if not states.start_from(request.shard, request.state_version):
            return None
        return cohort.evaluate(_own_heads(states, cohort, kind).of)

    def _evaluate(
        self, head: Arrays, index: NDArray[np.int64], features: NDArray[Any]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Return metric sums over the clients' validation parts, and each client's own loss and score."""
        federation = self.workspace.federation
        rows, owners = _joined(federation.validation, self.clients[index])
        result = evaluate_rows(
            features, federation.samples.targets, rows, head, self.objective, self.threads, self.device
        )
        count = np.bincount(owners, minlength=len(index))
        some = np.maximum(count, 1)
        per_client = {
            "num_validation": count,
            "validation_loss": np.bincount(owners, result.losses, minlength=len(index)) / some,
            "validation_score": np.bincount(owners, result.scores, minlength=len(index)) / some,
        }
        return dict(result.sums), per_client

    def statistics(self, request: StatisticsRequest, groups: Groups) -> tuple[StatisticsReply, Groups]:
        """Return sums over the training samples of the clients that the request names."""
        features, index = self.features(request.weights_digest), self._index(groups)
        task, num_outputs = self.objective.task, self.objective.num_outputs
        check_statistics_size(num_outputs, features.shape[1], request.second_moment, task)
        rows, _ = _joined(self.workspace.federation.train, self.clients[index])
        with numpy_threads(self.threads):
            sums = statistics_sums(features, self.targets_of(1), rows, task, num_outputs, request.second_moment)
        body = StatisticsReply(shard=request.shard, num_clients=len(index), num_samples=len(rows))
        return body, {"sums": sums}

    def class_sums(self, request: ClassSumsRequest, groups: Groups) -> tuple[ClassSumsReply, Groups]:
        """Return each named client's counts and summed features by class.

        Raises:
            WireError: the targets are not classes, or the sums would be too large.
        """
        features, index = self.features(request.weights_digest), self._index(groups)
        if self.objective.task != "classes":
            raise WireError(f"query.class_sums needs one class a sample; the targets are {self.objective.task!r}")
        rows = [self.workspace.federation.train.of(int(client)) for client in self.clients[index]]
        found = class_rows(features, self.targets_of(1), rows)
        body = ClassSumsReply(shard=request.shard, num_clients=len(index), num_samples=sum(map(len, rows)))
        return body, {"rows": found}

    def mixtures(self, request: MixturesRequest, groups: Groups) -> tuple[MixturesReply, Groups]:
        """Fit Gaussian mixtures to each named client's features of each class.

        Raises:
            WireError: the targets are not classes, or the mixtures would be too large.
        """
        features, index = self.features(request.weights_digest), self._index(groups)
        if self.objective.task != "classes":
            raise WireError(f"query.mixtures needs one class a sample; the targets are {self.objective.task!r}")
        rows = [self.workspace.federation.train.of(int(client)) for client in self.clients[index]]
        components, covariance, seed = request.components, request.covariance, self.part.seed
        with numpy_threads(self.threads):
            found = mixtures(features, self.targets_of(1), rows, self.keys[index], seed, components, covariance)
        body = MixturesReply(shard=request.shard, num_clients=len(index), num_samples=sum(map(len, rows)))
        return body, {"rows": found}

    def cross_validate(self, request: CrossValidateRequest, groups: Groups) -> tuple[CrossValidateReply, Groups]:
        """Predict each named client's training samples with heads that lack that client, and count."""
        features, index = self.features(request.weights_digest), self._index(groups)
        train, targets = self.workspace.federation.train, self.targets_of(1)
        rows = [train.of(int(client)) for client in self.clients[index]]
        task, num_outputs = self.objective.task, self.objective.num_outputs
        with numpy_threads(self.threads):
            validation = CrossValidation(
                features, targets, task, num_outputs, groups.get("moments"), request.lambdas, request.bias
            )
            counts = validation.counts(rows)
        num_samples = sum(len(part) for part in rows)
        body = CrossValidateReply(shard=request.shard, num_clients=len(index), num_samples=num_samples)
        return body, {"counts": counts}

    def leave_out(self, request: LeaveOutRequest, groups: Groups) -> tuple[LeaveOutReply, Groups]:
        """Make the head without each named client in turn.

        Raises:
            WireError: the request's parameters or sums are not those of its form, or without a client nothing is left.
        """
        features, index = self.features(request.weights_digest), self._index(groups)
        if sorted(request.parameters) != sorted(PARAMETERS[request.form]):
            came, needs = listed(request.parameters) or "none", listed(PARAMETERS[request.form]) or "none"
            raise WireError(f"the request's parameters for {request.form} are {came}; expected {needs}")
        recipe = Recipe(request.form, request.parameters, request.temperature)
        train, targets = self.workspace.federation.train, self.targets_of(1)
        rows = [train.of(int(client)) for client in self.clients[index]]
        task, num_outputs = self.objective.task, self.objective.num_outputs
        with numpy_threads(self.threads):
            without = HeadsWithout(features, targets, task, num_outputs, groups.get("pooled"), recipe)
            heads = without.stack(rows, [self.names[position] for position in index])
        num_samples = sum(len(part) for part in rows)
        body = LeaveOutReply(shard=request.shard, num_clients=len(index), num_samples=num_samples)
        return body, {"heads": {**heads}}

    def _head(self, groups: Groups, features: NDArray[Any]) -> Arrays:
        head = groups.get("head")
        shapes = head_shapes(self.part.head, features.shape[1], self.objective.num_outputs)
        expect(head, shapes, "the request's head", np.dtype(np.float32))
        return head or {}

    def _index(self, groups: Groups) -> NDArray[np.int64]:
        """Return the clients that a request names, as positions in this host's description."""
        index = groups.get("clients", {}).get("index")
        if index is None or index.dtype != np.int64 or index.ndim != 1:
            raise WireError("the request names no clients; expected clients.index, int64 positions")
        if len(index) and (index.min() < 0 or index.max() >= len(self.clients) or (np.diff(index) <= 0).any()):
            raise WireError(
                f"the request names clients {index.min()} to {index.max()} of this host's {len(self.clients)}; "
                "expected ascending positions in its description"
            )
        return index


def _kind(request: TrainRequest) -> HalfKind:
    build_half(request.half)  # refuses what this release does not have
    return HALVES[request.half.name]


def _own_heads(states: ClientStates, cohort: PersonalCohort, kind: HalfKind) -> OwnHeads:
    return OwnHeads(states.tables["own"], states.tables["begun"], cohort.received, kind.layers == "added")


def _joined(parts: Ragged, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of several clients one after another, and for each row the turn of its client."""
    lengths = parts.counts[positions]
    owners = np.repeat(np.arange(len(positions)), lengths)
    starts = np.repeat(parts.offsets[positions] - np.concatenate(([0], lengths.cumsum()[:-1])), lengths)
    return parts.indices[starts + np.arange(len(owners))], owners


@functools.lru_cache(maxsize=64)
def resident_host(
    scenario_json: str,
    number: int,
    num_hosts: int,
    threads: int,
    is_simulated: bool = True,
    feature_dim: int = 0,
    device: Device = "auto",
) -> Host:
    """Return this process's host for a scenario; it stays for the messages to come.

    Raises:
        ScenarioError: a site is asked to do what only a simulation may.
    """
    part = ClientPart.model_validate_json(scenario_json)
    if part.attack is not None and not is_simulated:
        text = "is for simulations only, and this node is none's: a site does not lie; set it to null"
        raise ScenarioError("the scenario that was sent", [Fault("attack", text)])
    if part.strategy.pools and not is_simulated:
        text = f"{part.strategy.name} pools all clients' data, which a site does not give; take another strategy"
        raise ScenarioError("the scenario that was sent", [Fault("strategy", text)])
    return Host(part, number, num_hosts, threads, feature_dim, device)


def forget_hosts() -> None:
    """Drop every resident host and workspace, so that changed files are read anew."""
    resident_host.cache_clear()
    open_workspace.cache_clear()
