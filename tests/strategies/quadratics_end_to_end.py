"""The same quadratics as data of a real federation: one feature, squared loss, a linear head without a bias.

A client with curvature `a` and optimum `o` has the sample `x = sqrt(a)`, `y = sqrt(a) o`, as often as its weight:
its mean loss is `(x w - y)^2 / 2 = a / 2 (w - o)^2`.
"""

from __future__ import annotations

import functools
import json
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, RecordDict
from quadratics import LEARNING_RATE, Quadratic

from clients.app import app
from fedgraft.evaluation import Objective
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.loss_settings import SquaredLoss
from fedgraft.simulation.flower_identity import claim_identity
from fedgraft.simulation.inline import FIRST_HOST, RUN, InlineGrid
from fedgraft.submission import RunFacts, Submission
from fedgraft.wire.records import array_record
from scenarios.schema import Scenario
from server.adapter import PackedStrategy
from server.checkpoint import Counters
from server.exchange import exchange
from server.roster import Roster, call_the_roll
from server.settings import EvaluationSettings, ServerSettings
from strategies.base import Strategy

RUN_ID = str(uuid.UUID(int=1))
Part = tuple[float, float, float]


def federation(
    clients: Sequence[Quadratic],
    num_steps: int,
    train: dict[str, Any],
    validation_fraction: float = 0.0,
    name: str = "fedavg",
) -> tuple[InlineGrid, Roster]:
    """Return the hosts of a federation of quadratics, and who they speak for."""
    parts = tuple((one.curvature, one.optimum, one.weight) for one in clients)
    return _federation(parts, num_steps, json.dumps(train), validation_fraction, name)


@functools.cache
def _federation(
    clients: tuple[Part, ...], num_steps: int, train: str, validation_fraction: float, name: str
) -> tuple[InlineGrid, Roster]:
    folder = Path(tempfile.mkdtemp())
    owners = np.repeat(np.arange(len(clients)), [int(weight) for _, _, weight in clients])
    roots = np.sqrt([curvature for curvature, _, _ in clients])[owners]
    optima = np.array([optimum for _, optimum, _ in clients])[owners]
    np.savez(
        folder / "quadratics.npz",
        features=roots[:, None].astype(np.float32),
        labels=roots * optima,
        client=np.array([f"client-{owner:02}" for owner in owners]),
    )
    source = {"name": "arrays", "path": str(folder / "quadratics.npz"), "task": "real"}
    settings = {"local_steps": num_steps, "batch_size": 100, **json.loads(train)}
    settings["optimizer"] = {"name": "sgd", "learning_rate": LEARNING_RATE, **settings.get("optimizer", {})}
    values = {
        "name": "quadratics",
        "data": {
            "source": source,
            "partition": "natural",
            "validation_fraction": validation_fraction,
            "test_fraction": 0,
        },
        "backbone": "identity",
        "head": {"name": "linear", "bias": False},
        "train": settings,
        "strategy": name,
    }
    scenario = Scenario.model_validate_json(json.dumps(values))
    config = {"scenario": Submission(scenario.model_dump_json(), RunFacts(run_id=RUN_ID)).to_run_config()}
    node = {"partition-id": 0, "num-partitions": 1}
    claim_identity(RUN)
    grid = InlineGrid(app, {FIRST_HOST: Context(RUN, FIRST_HOST, node, RecordDict(), config)})
    return grid, call_the_roll(grid, RUN_ID, 1, 1, Counters(), 10.0)


def course_end_to_end(
    strategy: Strategy,
    clients: Sequence[Quadratic],
    num_steps: int,
    num_rounds: int,
    start: float = 0.0,
    train: dict[str, Any] | None = None,
) -> list[float]:
    """Return the parameter after each round, by way of the adapter, messages, the host and its engine."""
    name = "centralised" if strategy.pools else "fedavg"  # all else is the same for every host
    return _course(strategy, federation(clients, num_steps, train or {}, 0.0, name), num_rounds, start)[0]


def own_heads_end_to_end(
    strategy: Strategy,
    clients: Sequence[Quadratic],
    num_steps: int,
    num_rounds: int,
    start: float = 0.0,
    train: dict[str, Any] | None = None,
) -> list[float]:
    """Return how far each client's own head is from the client's optimum after the last round, by its loss.

    Each sample comes twice, once to train on and once to be judged by: the loss there is `(x w - y)^2 / 2`.
    """
    doubled = [replace(client, weight=2 * client.weight) for client in clients]
    _, adapter = _course(strategy, federation(doubled, num_steps, train or {}, 0.5), num_rounds, start)
    losses = adapter.record.per_client["personal_loss"] if adapter.record else []
    return [float(np.sqrt(2 * loss / one.curvature)) for loss, one in zip(losses, clients, strict=True)]


def _course(
    strategy: Strategy, hosts: tuple[InlineGrid, Roster], num_rounds: int, start: float
) -> tuple[list[float], PackedStrategy]:
    """Return the parameter after each round, and the adapter after the last evaluation."""
    grid, roster = hosts
    objective = Objective(LinearHead(bias=False), SquaredLoss(), "real", 1)
    never = EvaluationSettings(every=1000, central=False, per_client=False)
    adapter = PackedStrategy(strategy, roster, ServerSettings(rounds=num_rounds), never, objective, RUN_ID, 1, "", 1)
    head: Any = {"weight": np.full((1, 1), start, dtype=np.float32)}
    values = []
    for number in range(1, num_rounds + 1):
        arrays = None
        while arrays is None:  # a strategy may ask for more than one exchange a round
            messages = list(adapter.configure_train(number, array_record(head), ConfigRecord(), grid))
            arrays, _ = adapter.aggregate_train(number, exchange(grid, messages, Counters(), "train", 10.0))
        head = adapter.head
        values.append(float(head["weight"][0, 0]))
    messages = list(adapter.configure_evaluate(num_rounds, array_record(head), ConfigRecord(), grid))
    adapter.aggregate_evaluate(num_rounds, exchange(grid, messages, Counters(), "evaluate", 10.0))
    return values, adapter
