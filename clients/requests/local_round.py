"""What the clients that a request names do in a round: train the head that was received, and their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.halves import Control, HalfKind, build_half, kind_of
from clients.local_solver import LocalSolver
from clients.members import Asked, Groups, Members
from clients.norm import STATE as NORM
from clients.norm import LocalNorm, evaluate_own, local_norm
from clients.personal.cohort import PersonalCohort
from clients.personal.training import OwnTrained
from clients.replies import NEAR, Part, StackReply, SumReply, Trained, check_stack_size
from clients.requests.evaluate import evaluate_received
from clients.requests.kept_updates import KeptUpdates, Updates
from clients.state.versions import ClientStates
from clients.training import diverged, train_one_by_one
from fedgraft.errors import WireError
from fedgraft.models.heads import as_tensors
from fedgraft.wire.records import Arrays
from fedgraft.wire.requests import TrainRequest

FITS: dict[str, Callable[[Trained], NDArray[np.float64]]] = {
    "train_loss_before": lambda trained: trained.losses_before,
    "train_loss_after": lambda trained: trained.losses_after,
    "train_score": lambda trained: trained.scores_after,
}
"""What is computed of each client's own training samples only where each client's metrics are asked for."""


@dataclass(frozen=True)
class _Finished:
    """What is left of clients that trained at once, once they are added to a reply."""

    turns: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    mean_losses: NDArray[np.float64]
    fits: Mapping[str, NDArray[np.float64]]
    part: Part
    updates: Updates | None


@dataclass(frozen=True)
class LocalRound:
    """The clients of one request to train.

    Attributes:
        members: all clients of the host.
        request: it names the half, the round, and what is replied.
        asked: what it is about.
        states: the clients' state; None if the half keeps none.
        shared: what the half has from the server, by group.
        kept: what was trained in this round, for exchanges that sum it up anew.
    """

    members: Members
    request: TrainRequest
    asked: Asked
    states: ClientStates | None
    shared: Mapping[str, Arrays]
    kept: KeptUpdates

    @property
    def kind(self) -> HalfKind:
        """Return what the half is made of."""
        return kind_of(self.request.half)

    @property
    def solver(self) -> LocalSolver:
        """Return how clients train in the round."""
        task = self.members.task(self.request.round_number)
        return LocalSolver(task.train.optimizer, task.learning_rate, self._mu)

    def evaluated(self) -> tuple[Groups, dict[str, NDArray[Any]]]:
        """Evaluate the received head and the clients' own heads as they stand, if that is asked for."""
        if not self.request.evaluate:
            return {}, {}
        metrics, columns = evaluate_received(self.members, self.asked)
        out = {"metrics": metrics}
        norm = self._norm()
        if norm is not None:
            out["personal"], own = evaluate_own(self.members, self.asked, norm)
            columns |= own
        if self.states is not None and self.kind.personal == "own":
            cohort = PersonalCohort(self.members, self.asked)
            out["personal"], own = cohort.evaluate(cohort.own_heads(self.states, self.kind.layers).of)
            columns |= own
        return out, columns

    def train_into(self, reply: SumReply | StackReply) -> dict[str, NDArray[Any]]:
        """Train the clients into the reply; return what is known of each.

        Raises:
            TrainingError: a client's training diverged.
        """
        per_client, index = self.request.per_client, self.asked.index
        keeps = bool(NEAR & {*self.request.sums, *self.request.scalars})
        if keeps:
            check_stack_size(self.asked.shapes, len(index))
        kept: list[Updates] = []

        def finish(clients: Trained) -> _Finished:
            fits = {name: of(clients) for name, of in FITS.items()} if per_client else {}
            updates = Updates.of(clients) if keeps else None
            facts = (clients.turns, clients.num_steps, clients.mean_losses)
            return _Finished(*facts, fits, reply.part(updates or clients), updates)

        steps, losses = np.zeros(len(index), dtype=np.int64), np.zeros(len(index))
        fits = {name: np.zeros(len(index)) for name in FITS} if per_client else {}
        own: Iterable[Trained] = self._train_own()
        control = self._control()
        if self.kind.layers:
            own = self._sent(own)
        for clients in self._finished(finish, control) if self.kind.shares else map(finish, own):
            reply.add_part(clients.part)
            steps[clients.turns], losses[clients.turns] = clients.num_steps, clients.mean_losses
            for name, values in fits.items():
                values[clients.turns] = clients.fits[name]
            if clients.updates is not None:
                kept.append(clients.updates)
        if keeps:
            self.kept.keep(self.request, self.asked, kept)
        for _ in own:  # beside the shared head; a reply says nothing of it
            pass
        self._check_losses(losses, steps)
        num_train = self.members.workspace.federation.train.counts[self.members.clients[index]]
        return {"index": index, "num_train": num_train, "steps": steps, "train_loss": losses, **fits}

    def _check_losses(self, losses: NDArray[np.float64], steps: NDArray[np.int64]) -> None:
        """Refuse losses that are not finite: they can pass what floats hold before the head does."""
        infinite = np.flatnonzero(~np.isfinite(losses))
        if len(infinite):
            task = self.members.task(self.request.round_number)
            name = self.members.names[self.asked.index[infinite[0]]]
            raise diverged(task, name, int(steps[infinite[0]]))

    def _finished(self, finish: Callable[[Trained], _Finished], control: Control | None) -> Iterable[_Finished]:
        """Train the clients; call `finish` with those that trained at once, in the thread that did if it can."""
        members, asked, round_number = self.members, self.asked, self.request.round_number
        known = self.kept.of(self.request, asked) if self.request.again else None
        if known is not None:
            return map(finish, known)
        task = replace(members.task_of(asked, round_number), ascent=self.request.half.parameters.get("rho", 0.0))
        start, targets = as_tensors(asked.head), members.targets_of(round_number)
        trained: Iterable[Trained]
        if members.part.train.form == "loop" or asked.objective.blocks is not None:
            threads = 1 if asked.objective.blocks is None else members.threads
            names, adjust = [members.names[position] for position in asked.index], build_half(self.request.half)
            samples, keys = members.samples(asked.index, asked.features, targets), members.keys[asked.index]
            trained = train_one_by_one(task, start, samples, keys, names, adjust, control, threads, self._norm())
        else:
            engine = members.engine(asked.features, targets)
            if members.attack is None:
                return engine.run_each(finish, task, start, asked.index, self._mu, control, members.threads)
            trained = engine.run(task, start, asked.index, self._mu, control, members.threads)
        return map(finish, self._sent(trained))

    def _sent(self, trained: Iterable[Trained]) -> Iterable[Trained]:
        """Return clients that trained, as what they send: liars may agree with those of other groups."""
        attack = self.members.attack
        if attack is None:
            return trained
        return attack.sent(trained, self.asked.index, self.request.round_number, self.asked.shapes)

    def _train_own(self) -> Iterator[OwnTrained]:
        """Train the clients' own heads from where they stand, and keep them; none where the half has none."""
        kind, parameters = self.kind, self.request.half.parameters
        cohort, task = PersonalCohort(self.members, self.asked), self.members.task(self.request.round_number)
        has_own = kind.personal == "own"
        own = cohort.own_heads(self.states, kind.layers) if self.states is not None and has_own else None
        groups: Iterable[OwnTrained] = ()
        if kind.layers:
            groups = cohort.train_layers(task, kind.layers, own, int(parameters.get("layer_epochs", 0)))
        elif own is not None:
            groups = cohort.train(task, own.of, parameters.get("pull", 0.0))
        for trained in groups:
            if own is not None:
                own.keep(trained.clients, trained.kept or trained.heads)
            yield trained

    def _control(self) -> Control | None:
        """Return the control variates of the clients, if the half has any."""
        if self.states is None or "control" not in self.states.tables:
            return None
        own, index, half = self.states.tables["control"], self.asked.index, self.request.half
        if half.name != "dynamic":
            return Control(as_tensors(self.shared["control"]), own, index)
        if self.members.part.train.optimizer.weight_decay:
            raise WireError("the client half 'dynamic' takes no weight decay; set train.optimizer.weight_decay to 0")
        nothing = {name: np.zeros_like(value) for name, value in self.asked.head.items()}
        return Control(as_tensors(nothing), own, index, half.parameters["mu"])

    def _norm(self) -> LocalNorm | None:
        """Return the clients' own batch norm, if the half has any."""
        if self.states is None or self.kind.personal != "normed":
            return None
        return local_norm(self.asked, self.states.tables[NORM])

    @property
    def _mu(self) -> float:
        """Return the weight of the proximal term."""
        return self.request.half.parameters.get("mu", 0.0)
