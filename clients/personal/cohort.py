"""What a host does for the own heads of the clients that a request names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.engine.primal import Stacked
from clients.personal.blended_ridge import SHARES, BlendedRidge, crossed_choice
from clients.personal.evaluation import OwnEvaluation
from clients.personal.heads import OwnHeads
from clients.personal.layers import Layers, LayerTraining
from clients.personal.training import HeadsOf, OwnTrained, train_own, train_own_one_by_one
from clients.settings import Constant, TrainSettings
from clients.training import LocalTask
from fedgraft.closed_form import moment_shapes, predict, regression_targets
from fedgraft.errors import WireError
from fedgraft.models.head_settings import AdapterHead
from fedgraft.models.heads import as_tensors
from fedgraft.models.loss_settings import SoftmaxLoss
from fedgraft.wire.records import Arrays, expect

if TYPE_CHECKING:
    from clients.host import Host

Evaluation = tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]
"""Metric sums over the clients' validation parts, and columns of each client's loss and score."""


class PersonalCohort:
    """The clients of one request.

    Args:
        host: theirs.
        features: of all samples.
        received: the head that was received.
        index: which clients, ascending positions among the host's.
    """

    def __init__(self, host: Host, features: NDArray[Any], received: Arrays, index: NDArray[np.int64]) -> None:
        self._host, self._features, self._index = host, features, index
        self.received = as_tensors(received)

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
        host = self._host
        targets = host.targets_of(min(task.round_number, task.num_rounds))
        if task.train.form == "loop":
            samples = host.samples(self._index, self._features, targets)
            return train_own_one_by_one(
                task, samples, self._index, host.keys, host.names, heads_of, self.received, pull
            )
        engine = host.engine(self._features, targets)
        return train_own(engine, task, self._index, host.names, heads_of, self.received, pull, host.threads)

    def train_layers(
        self, task: LocalTask, layers: Layers, own: OwnHeads | None, layer_epochs: int
    ) -> Iterator[OwnTrained]:
        """Train heads with an adapter, in whatever form; yield those that trained at once.

        Raises:
            WireError: the head has no adapter, or the half needs another loss.
        """
        host = self._host
        if not isinstance(host.objective.head, AdapterHead):
            came = host.objective.head.name
            raise WireError(f"the client half shares an adapter, but the head is {came}; set head: adapter")
        if layers == "added" and not isinstance(host.objective.loss, SoftmaxLoss):
            raise WireError("the client half needs one class a sample and the softmax loss, whose classes it balances")
        engine = host.engine(self._features, host.targets_of(task.round_number))
        training = LayerTraining(engine, task, host.names, self.received, own, layer_epochs)
        return training.run(layers, self._index, host.threads)

    def fine_tuned(self, task: LocalTask, epochs: int) -> Evaluation:
        """Have each client train a copy of the received head for some epochs, evaluate it, and forget it.

        The learning rate is the optimiser's, whatever the schedule has come to.
        """
        tuned = _changed(task.train, epochs)
        evaluation, left = self._evaluation(), np.ones(len(self._index), dtype=np.bool_)
        after = LocalTask(task.objective, tuned, task.seed, task.num_rounds + 1, task.num_rounds)
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
        host, objective = self._host, self._host.objective
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
        for turn, client in enumerate(host.clients[self._index]):
            rows = host.workspace.federation.validation.of(int(client))
            if len(rows):
                outputs = self._blended_outputs(ridge, int(client), rows)
                scale = 1.0 if objective.task == "real" else parameters["temperature"]
                evaluation.count(np.array([turn]), np.array([len(rows)]), rows, (outputs / scale).astype(np.float32))
        return _result(evaluation)

    def _blended_outputs(self, ridge: BlendedRidge, client: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the outputs on a client's validation rows, each half by the head that the other half chooses."""
        host, objective = self._host, self._host.objective
        own, task, num_outputs = host.workspace.federation.train.of(client), objective.task, objective.num_outputs
        targets = host.targets_of(1)
        features = self._features[own].astype(np.float64)
        heads = ridge.heads(
            features, regression_targets(targets[own], task, num_outputs), SHARES if len(own) else (0.0,)
        )
        judged = self._features[rows].astype(np.float64)
        outputs = np.stack([predict(head, judged) for head in heads])
        wanted = regression_targets(host.workspace.federation.samples.targets[rows], task, num_outputs)
        chosen = crossed_choice(np.square(outputs - wanted).sum(axis=2))
        found: NDArray[np.float64] = outputs[chosen, np.arange(len(rows))]
        return found

    def _copies(self, clients: NDArray[np.int64]) -> Stacked:
        return {name: value.repeat(len(clients), *[1] * value.dim()) for name, value in self.received.items()}

    def _evaluation(self) -> OwnEvaluation:
        host = self._host
        federation = host.workspace.federation
        clients = host.clients[self._index]
        return OwnEvaluation(self._features, federation.samples.targets, federation.validation, clients, host.objective)


def _changed(train: TrainSettings, epochs: int) -> TrainSettings:
    return train.model_copy(update={"local_epochs": epochs, "local_steps": None, "schedule": Constant()})


def _some(heads: Stacked, places: NDArray[np.int64]) -> Stacked:
    import torch

    return {name: value[torch.from_numpy(places)].cpu() for name, value in heads.items()}


def _result(evaluation: OwnEvaluation) -> Evaluation:
    return evaluation.sums, {"personal_loss": evaluation.losses, "personal_score": evaluation.scores}
