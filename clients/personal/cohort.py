"""What a host does for the own heads of the clients that a request names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.engine.primal import Stacked
from clients.members import Asked, Members
from clients.personal.blended_ridge import SHARES, BlendedRidge, crossed_choice
from clients.personal.evaluation import OwnEvaluation
from clients.personal.heads import OwnHeads
from clients.personal.layers import Layers, LayerTraining
from clients.personal.training import HeadsOf, OwnTrained, train_own, train_own_one_by_one
from clients.settings import Constant, TrainSettings
from clients.state.versions import ClientStates
from clients.training import LocalTask
from fedgraft.closed_form import moment_shapes, predict, regression_targets
from fedgraft.errors import WireError
from fedgraft.models.head_settings import AdapterHead
from fedgraft.models.heads import as_tensors
from fedgraft.models.loss_settings import SoftmaxLoss
from fedgraft.wire.records import Arrays, expect

Evaluation = tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]
"""Metric sums over the clients' validation parts, and columns of each client's loss and score."""


class PersonalCohort:
    """The clients of one request.

    Args:
        members: all clients of the host.
        asked: the head that was received, and which clients.
        with_confidence: whether evaluations say also how sure heads of classes are.
    """

    def __init__(self, members: Members, asked: Asked, with_confidence: bool = False) -> None:
        self._with_confidence = with_confidence
        self._members, self._features, self._index = members, asked.features, asked.index
        self.received = as_tensors(asked.head)

    def own_heads(self, states: ClientStates, layers: str) -> OwnHeads:
        """Return the own heads that the clients' state keeps.

        Args:
            states: of a half whose clients have some.
            layers: which layer is the client's own, as the half says.
        """
        return OwnHeads(states.tables["own"], states.tables["begun"], self.received, layers == "added")

    def evaluate(self, heads_of: HeadsOf) -> Evaluation:
        """Evaluate each client's own head on its validation part.

        Args:
            heads_of: returns the heads of some of the host's clients.
        """
        evaluation, turns = self._evaluation(), np.arange(len(self._index))
        evaluation.add(turns, lambda places: heads_of(self._index[places]))
        return _result(evaluation)

    def train(self, task: LocalTask, heads_of: HeadsOf, pull: float = 0.0) -> Iterator[OwnTrained]:
        """Train each client's own head, from what `heads_of` returns; yield those that trained at once."""
        members = self._members
        targets = members.targets_of(min(task.round_number, task.last_round))
        if task.train.form == "loop":
            samples = members.samples(self._index, self._features, targets)
            return train_own_one_by_one(
                task, samples, self._index, members.keys, members.names, heads_of, self.received, pull
            )
        engine = members.engine(self._features, targets)
        return train_own(engine, task, self._index, members.names, heads_of, self.received, pull, members.threads)

    def train_layers(
        self, task: LocalTask, layers: Layers, own: OwnHeads | None, layer_epochs: int
    ) -> Iterator[OwnTrained]:
        """Train heads with an adapter, in whatever form; yield those that trained at once.

        Raises:
            WireError: the head has no adapter, or the half needs another loss.
        """
        members = self._members
        if not isinstance(members.objective.head, AdapterHead):
            came = members.objective.head.name
            raise WireError(f"the client half shares an adapter, but the head is {came}; set head: adapter")
        if layers == "added" and not isinstance(members.objective.loss, SoftmaxLoss):
            raise WireError("the client half needs one class a sample and the softmax loss, whose classes it balances")
        engine = members.engine(self._features, members.targets_of(task.round_number))
        training = LayerTraining(engine, task, members.names, self.received, own, layer_epochs)
        return training.run(layers, self._index, members.threads)

    def fine_tuned(self, task: LocalTask, epochs: int) -> Evaluation:
        """Have each client train a copy of the received head for some epochs, evaluate it, and forget it.

        The learning rate is the optimiser's, whatever the schedule has come to.
        """
        tuned = _changed(task.train, epochs)
        evaluation, left = self._evaluation(), np.ones(len(self._index), dtype=np.bool_)
        after = replace(task, train=tuned, round_number=task.last_round + 1)
        for trained in self.train(after, self._copies):
            evaluation.add(trained.turns, lambda places, trained=trained: _some(trained.heads, places))  # type: ignore[misc]
            left[trained.turns] = False
        without_samples = np.flatnonzero(left)
        evaluation.add(without_samples, self._copies)
        return _result(evaluation)

    def blended(self, extra: Arrays, parameters: Mapping[str, float]) -> Evaluation:
        """Have each client blend its own samples with the sums of all, choose how much, and evaluate.

        Args:
            extra: `moments.<name>` of all clients' training samples, float64.
            parameters: `penalty`, and the `temperature` that outputs of classes and labels are divided by.

        Raises:
            WireError: the moments or parameters are not those of any samples.
        """
        members, objective = self._members, self._members.objective
        shapes = moment_shapes(objective.num_outputs, self._features.shape[1])
        named = {f"moments.{name}": shape for name, shape in shapes.items()}
        expect(extra, named, "the request's moments of all clients", np.dtype(np.float64))
        if not parameters["temperature"] > 0:
            raise WireError(f"the request's temperature is {parameters['temperature']}; expected a number above 0")
        moments = {name: extra[f"moments.{name}"] for name in shapes}
        try:
            ridge = BlendedRidge(moments, parameters["penalty"], "bias" in self.received)
        except ValueError as error:
            raise WireError(f"the request's moments and penalty: {error}") from error
        evaluation = self._evaluation()
        for turn, client in enumerate(members.clients[self._index]):
            rows = members.workspace.federation.validation.of(int(client))
            if len(rows):
                outputs = self._blended_outputs(ridge, int(client), rows)
                scale = 1.0 if objective.task == "real" else parameters["temperature"]
                evaluation.count(np.array([turn]), np.array([len(rows)]), rows, (outputs / scale).astype(np.float32))
        return _result(evaluation)

    def _blended_outputs(self, ridge: BlendedRidge, client: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the outputs on a client's validation rows, each half by the head that the other half chooses."""
        members, objective = self._members, self._members.objective
        own, task, num_outputs = members.workspace.federation.train.of(client), objective.task, objective.num_outputs
        targets = members.targets_of_sums
        features = self._features[own].astype(np.float64)
        heads = ridge.heads(
            features, regression_targets(targets[own], task, num_outputs), SHARES if len(own) else (0.0,)
        )
        judged = self._features[rows].astype(np.float64)
        outputs = np.stack([predict(head, judged) for head in heads])
        wanted = regression_targets(members.workspace.federation.samples.targets[rows], task, num_outputs)
        chosen = crossed_choice(np.square(outputs - wanted).sum(axis=2))
        found: NDArray[np.float64] = outputs[chosen, np.arange(len(rows))]
        return found

    def _copies(self, clients: NDArray[np.int64]) -> Stacked:
        return {name: value.repeat(len(clients), *[1] * value.dim()) for name, value in self.received.items()}

    def _evaluation(self) -> OwnEvaluation:
        members = self._members
        federation = members.workspace.federation
        clients = members.clients[self._index]
        targets, objective = federation.samples.targets, members.objective
        return OwnEvaluation(self._features, targets, federation.validation, clients, objective, self._with_confidence)


def _changed(train: TrainSettings, epochs: int) -> TrainSettings:
    return train.model_copy(update={"local_epochs": epochs, "local_steps": None, "schedule": Constant()})


def _some(heads: Stacked, places: NDArray[np.int64]) -> Stacked:
    import torch

    return {name: value[torch.from_numpy(places)].cpu() for name, value in heads.items()}


def _result(evaluation: OwnEvaluation) -> Evaluation:
    return evaluation.sums, {"personal_loss": evaluation.losses, "personal_score": evaluation.scores}
