"""The engine `pfl` of `simulation.py`: pfl-research, one process, its own FederatedAveraging over all clients.

Runs in the environment that `pfl_environment.py` makes.

Granqvist et al., "pfl-research: simulation framework for accelerating research in Private Federated Learning",
NeurIPS 2024, arXiv:2404.06430.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from simulation_work import (
    BATCH_SIZE,
    EPOCHS,
    LEARNING_RATE,
    NUM_CLASSES,
    Work,
    arrays,
    batch_orders,
    client_name,
    client_samples,
    zero_head,
)

AT_ONCE = 10**9
"""Batch size of evaluations: before and after the first round pfl-research evaluates, whatever is set."""


class LinearHead(torch.nn.Linear):
    """The head with what pfl-research wants of a model."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__(feature_dim, NUM_CLASSES)
        self.load_state_dict(zero_head(feature_dim))
        self.loss_of = torch.nn.CrossEntropyLoss()

    def loss(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch."""
        loss: torch.Tensor = self.loss_of(self(features), labels)
        return loss

    def metrics(self, features: torch.Tensor, labels: torch.Tensor) -> dict[str, Weighted]:
        """Return something that costs nothing."""
        return {"samples": Weighted(len(features), 1)}


class Clock(TrainingProcessCallback):
    """Notes when each central iteration ends, and knows which one is going on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    @property
    def round_number(self) -> int:
        """The round in progress, from 1."""
        return len(self.seconds) + 1

    def on_train_begin(self, *, model: Any) -> Metrics:
        """Begin the first round."""
        self.started = time.perf_counter()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """End a round."""
        now = time.perf_counter()
        self.seconds.append(now - self.started)
        self.started = now
        return False, Metrics()


class Client(Dataset):
    """A client's samples, in the order of batches that all engines take; pfl-research's own never changes."""

    def __init__(self, name: str, features: torch.Tensor, labels: torch.Tensor, clock: Clock) -> None:
        super().__init__((features, labels), user_id=name)
        self.clock, self.epoch = clock, 0

    def iter(self, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the batches of the next epoch."""
        features, labels = self.raw_data
        if batch_size == AT_ONCE:
            yield features, labels
            return
        order = batch_orders(self.user_id, self.clock.round_number, self.epoch, len(features))
        self.epoch += 1
        for first in range(0, len(order), batch_size):
            batch = torch.from_numpy(order[first : first + batch_size])
            yield features[batch], labels[batch]


def run(work: Work) -> tuple[dict[str, Any], list[float]]:
    """Return the head and each round's seconds."""
    torch.set_num_threads(1)
    clock, module = Clock(), LinearHead(work.feature_dim)
    samples = [client_samples(work, number) for number in range(work.clients)]
    clients = FederatedDataset(
        lambda number: Client(client_name(number, work.clients), *samples[number], clock),
        get_user_sampler("minimize_reuse", list(range(work.clients))),
    )
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=work.rounds,
            evaluation_frequency=work.rounds + 1,
            train_cohort_size=work.clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=clients, val_data=None),
        PyTorchModel(module, torch.optim.SGD, central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0)),
        NNTrainHyperParams(
            local_num_epochs=EPOCHS, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH_SIZE
        ),
        NNEvalHyperParams(local_batch_size=AT_ONCE),
        [clock],
    )  # fmt: skip
    return arrays({name: module.state_dict()[name] for name in ("weight", "bias")}), clock.seconds
