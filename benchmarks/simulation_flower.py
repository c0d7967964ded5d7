"""The engine `flower` of `simulation.py`: stock Flower's Ray simulation, one client a node, a plain PyTorch ClientApp.

Ray's workers import it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from simulation_work import Head, Work, arrays, client_name, client_samples, train_client, zero_head

client_app = ClientApp()


def run(work: Work) -> tuple[dict[str, Any], list[float]]:
    """Return the head and each round's seconds."""
    from flwr.simulation import run_simulation

    found: list[Any] = []
    app = _server(work, lambda head, seconds: found.extend((head, seconds)))
    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"logging_level": "ERROR"}}
    run_simulation(app, client_app, num_supernodes=work.clients, backend_config=backend)
    return found[0], found[1]


def _tensors(head: Mapping[str, Array]) -> Head:
    return {name: torch.from_numpy(np.array(array.numpy())) for name, array in head.items()}


def _record(head: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in head.items()})


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the one client of this node."""
    torch.set_num_threads(1)
    work, number = Work.received(), int(context.node_config["partition-id"])
    config = next(iter(message.content.config_records.values()))
    features, labels = client_samples(work, number)
    head = _tensors(next(iter(message.content.array_records.values())))
    name = client_name(number, work.clients)
    trained = train_client(head, features, labels, name, int(config["server-round"]))
    metrics = MetricRecord({"num-examples": len(features)})
    return Message(RecordDict({"arrays": _record(arrays(trained)), "metrics": metrics}), reply_to=message)


class Timed(FedAvg):
    """Flower's own FedAvg; notes when each round begins and ends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seconds: list[float] = []

    def configure_train(self, *arguments: Any) -> Any:
        """Begin a round."""
        self.started = time.perf_counter()
        return super().configure_train(*arguments)

    def aggregate_train(self, *arguments: Any) -> Any:
        """End a round."""
        aggregated = super().aggregate_train(*arguments)
        self.seconds.append(time.perf_counter() - self.started)
        return aggregated


def _server(work: Work, finished: Any) -> ServerApp:
    """Return a ServerApp; `finished` gets the head and each round's seconds."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        everybody = {"min_train_nodes": work.clients, "min_available_nodes": work.clients}
        strategy = Timed(fraction_train=1.0, fraction_evaluate=0.0, **everybody)
        result = strategy.start(grid, _record(arrays(zero_head(work.feature_dim))), work.rounds)
        finished({name: array.numpy() for name, array in result.arrays.items()}, strategy.seconds)

    return app
