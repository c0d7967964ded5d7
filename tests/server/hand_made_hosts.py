"""Hosts whose answers a test writes by hand, behind the real inline grid and a real ClientApp."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedgraft.errors import WireError
from fedgraft.settings import Settings
from fedgraft.simulation.flower_identity import claim_identity
from fedgraft.simulation.inline import InlineGrid
from fedgraft.wire.protocol import code_digest
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import DescribeRequest, Description, EvaluateRequest, TrainReply, TrainRequest
from server.checkpoint import Counters
from server.roster import Roster, call_the_roll

Answer = tuple[Settings, Mapping[str, Mapping[str, Any]]]
Groups = dict[str, dict[str, Any]]


def description(names: Sequence[str], **changes: Any) -> Answer:
    """Return what a host says of itself, with 5 training and 2 validation samples a client."""
    facts: dict[str, Any] = {
        "code_digest": code_digest(),
        "release": "0.1.0",
        "task": "classes",
        "label_names": ("cat", "dog"),
        "feature_dim": 3,
        "backbone_digests": (),
        "num_hosts": 1,
    }
    clients = {
        "names": np.frombuffer("\n".join(names).encode(), dtype=np.uint8),
        "num_train": np.full(len(names), 5),
        "num_validation": np.full(len(names), 2),
    }
    clients |= changes.pop("clients", {})
    return Description(**{**facts, **changes}), {"clients": clients}


def grid_of(
    hosts: Mapping[int, Answer],
    train: Callable[[int, TrainRequest, Groups], Answer] | None = None,
    evaluate: Callable[[int, EvaluateRequest, Groups], Answer] | None = None,
) -> InlineGrid:
    """Return a grid of hosts, by node id, that describe themselves as given."""
    claim_identity(1)
    app = ClientApp()

    @app.query("describe")
    def describe(message: Message, context: Context) -> Message:
        unpack(message.content, DescribeRequest, "describe")
        return Message(pack(*hosts[context.node_id]), reply_to=message)

    @app.train()
    def on_train(message: Message, context: Context) -> Message:
        if train is None:
            raise WireError("this host does not train")
        return Message(pack(*train(context.node_id, *unpack(message.content, TrainRequest, "train"))), reply_to=message)

    @app.evaluate()
    def on_evaluate(message: Message, context: Context) -> Message:
        if evaluate is None:
            raise WireError("this host does not evaluate")
        answer = evaluate(context.node_id, *unpack(message.content, EvaluateRequest, "evaluate"))
        return Message(pack(*answer), reply_to=message)

    return InlineGrid(app, {node: Context(1, node, {}, RecordDict(), {}) for node in hosts})


def roster_of(grid: InlineGrid, num_shards: int = 1) -> Roster:
    """Call the roll of all hosts of a grid."""
    return call_the_roll(grid, "run-0001", len(list(grid.get_node_ids())), num_shards, Counters(), 5.0)


def update_reply(request: TrainRequest, groups: Groups, update: float) -> Answer:
    """Return a proper reply of clients with 5 samples each, whose updates are all the same number."""
    index = groups["clients"]["index"]
    weight = 5.0 * len(index)
    sums = {name: np.full(value.shape, weight * update, dtype=np.float32) for name, value in groups["head"].items()}
    body = TrainReply(
        round_number=request.round_number,
        shard=request.shard,
        num_clients=len(index),
        scalars={"weight": weight},
        seconds=0.0,
    )
    metrics = {"train_loss": np.array(weight * 0.5), "train_count": np.array(weight)}
    return body, {"update": sums, "metrics": metrics}
