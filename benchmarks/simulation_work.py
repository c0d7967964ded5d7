"""The work that every engine of `simulation.py` does: features, order of batches, the plain loop, stock Flower's apps.

Imported by Ray's workers too, so it holds no more than that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedgraft.randomness import key, name_key, orders

NUM_SAMPLES, FEATURE_DIM, NUM_CLASSES = 50, 1280, 10
EPOCHS, BATCH_SIZE, LEARNING_RATE, SEED = 5, 10, 0.001, 1
FOLDER = "FEDGRAFT_BENCHMARK_FOLDER"
"""Names the folder with `features.npy` and `labels.npy`, in the order of the clients."""

Head = dict[str, torch.Tensor]


def client_name(number: int, num_clients: int) -> str:
    """Return the name that FedGraft gives a client; its order of batches hangs on it."""
    return f"client-{number:0{max(4, len(str(num_clients - 1)))}d}"


def client_samples(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one client's features `(50, 1280)` and labels."""
    folder = Path(os.environ[FOLDER])
    rows = slice(number * NUM_SAMPLES, (number + 1) * NUM_SAMPLES)
    features = np.load(folder / "features.npy", mmap_mode="r")[rows]
    labels = np.load(folder / "labels.npy", mmap_mode="r")[rows]
    return torch.from_numpy(np.array(features)), torch.from_numpy(np.array(labels))


def train_client(head: Head, features: torch.Tensor, labels: torch.Tensor, name: str, round_number: int) -> Head:
    """Train one client's head, as any PyTorch tutorial does."""
    model = torch.nn.Linear(FEATURE_DIM, NUM_CLASSES)
    model.load_state_dict(head)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    loss_of = torch.nn.CrossEntropyLoss()
    for epoch in range(EPOCHS):
        order = orders(key(SEED, "batches", round_number, name_key(name), epoch), len(features))[0]
        for first in range(0, len(order), BATCH_SIZE):
            batch = torch.from_numpy(order[first : first + BATCH_SIZE])
            optimizer.zero_grad()
            loss_of(model(features[batch]), labels[batch]).backward()
            optimizer.step()
    return {name: value.detach() for name, value in model.state_dict().items()}


def zero_head() -> Head:
    """Return the head before the first round."""
    return {"weight": torch.zeros(NUM_CLASSES, FEATURE_DIM), "bias": torch.zeros(NUM_CLASSES)}


def tensors(arrays: Mapping[str, Array]) -> Head:
    """Return the head in a Flower record."""
    return {name: torch.from_numpy(np.array(array.numpy())) for name, array in arrays.items()}


def record(head: Mapping[str, NDArray[Any] | torch.Tensor]) -> ArrayRecord:
    """Return a head as a Flower record."""
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in head.items()})


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the one client of this node."""
    torch.set_num_threads(1)
    number, num_clients = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    config = next(iter(message.content.config_records.values()))
    features, labels = client_samples(number)
    head = tensors(next(iter(message.content.array_records.values())))
    trained = train_client(head, features, labels, client_name(number, num_clients), int(config["server-round"]))
    metrics = MetricRecord({"num-examples": len(features)})
    return Message(RecordDict({"arrays": record(trained), "metrics": metrics}), reply_to=message)


def stock_server(num_rounds: int, finished: Any) -> ServerApp:
    """Return a ServerApp with Flower's own FedAvg; `finished` gets the head and each round's seconds."""
    import time

    app = ServerApp()

    class Timed(FedAvg):
        """Notes when each round begins and ends."""

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.seconds: list[float] = []

        def configure_train(self, *arguments: Any) -> Any:
            self.started = time.perf_counter()
            return super().configure_train(*arguments)

        def aggregate_train(self, *arguments: Any) -> Any:
            aggregated = super().aggregate_train(*arguments)
            self.seconds.append(time.perf_counter() - self.started)
            return aggregated

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        num_clients = len(list(grid.get_node_ids()))
        strategy = Timed(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=num_clients, min_available_nodes=num_clients
        )
        result = strategy.start(grid, record(zero_head()), num_rounds)
        finished({name: array.numpy() for name, array in result.arrays.items()}, strategy.seconds)

    return app
