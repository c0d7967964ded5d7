"""A small scenario behind the real ClientApp, with Flower's own messages."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto

from clients.app import app
from clients.host import Host, resident_host
from fedgraft.settings import Settings
from fedgraft.simulation.flower_identity import claim_identity, stamp
from fedgraft.submission import RunFacts, Submission, read_submission
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import (
    BackboneReply,
    BackboneRequest,
    DescribeRequest,
    Description,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
)
from scenarios.schema import Scenario

REPLIES: dict[type[Settings], tuple[str, type[Settings]]] = {
    DescribeRequest: ("query.describe", Description),
    BackboneRequest: ("query.backbone", BackboneReply),
    TrainRequest: ("train", TrainReply),
    EvaluateRequest: ("evaluate", EvaluateReply),
}
VALUES: dict[str, Any] = {
    "name": "small",
    "seed": 7,
    "data": {
        "source": {"name": "synthetic", "num_samples": 60, "num_classes": 3, "num_features": 8},
        "partition": {"name": "sizes", "sizes": [9, 1, 14, 6, 3]},
        "validation_fraction": 0.34,
    },
    "backbone": "identity",
    "train": {"local_epochs": 2, "batch_size": 4, "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.5}},
    "shards": 2,
}


def host_of(context: Context) -> Host:
    """Return the host that a message speaks to, as the ClientApp finds it; without a number it is a site's."""
    submission, node = read_submission(context.run_config), context.node_config
    place = int(node.get("partition-id", 0)), int(node.get("num-partitions", 1))
    run = submission.run
    simulated = "partition-id" in node
    return resident_host(submission.scenario_json, *place, run.threads, simulated, run.feature_dim, run.device)


def scenario_of(**changes: Any) -> Scenario:
    return Scenario.model_validate_json(json.dumps({**VALUES, **changes}))


class Site:
    """One host of a scenario: asks its ClientApp as the server does, through serialised messages."""

    def __init__(self, number: int = 0, num_hosts: int = 1, **changes: Any) -> None:
        self.scenario = scenario_of(**changes)
        submission = Submission(self.scenario.model_dump_json(), RunFacts(run_id=str(uuid.UUID(int=1))))
        config = {"scenario": submission.to_run_config()}
        node = {"partition-id": number, "num-partitions": num_hosts}
        self.context = Context(1, 2, node, RecordDict(), config)

    def message(self, record: RecordDict, message_type: str) -> Message:
        claim_identity(1)
        message = Message(record, dst_node_id=2, message_type=message_type)
        stamp(message)
        return message

    def send(self, record: RecordDict, message_type: str) -> RecordDict:
        """Return the content of the reply."""
        came = recorddict_from_proto(recorddict_to_proto(record))
        reply = app(self.message(came, message_type), self.context)
        assert not reply.has_error()
        return recorddict_from_proto(recorddict_to_proto(reply.content))

    def ask(self, body: Settings, groups: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, dict[str, Any]]]:
        """Return the body and the arrays of the reply."""
        message_type, model = REPLIES[type(body)]
        return unpack(self.send(pack(body, groups), message_type), model, message_type)


def describe_clients(site: Site) -> tuple[Description, list[str]]:
    """Return what a site says of itself, and its clients' names."""
    body, groups = site.ask(DescribeRequest(run_id="r"))
    text = groups["clients"]["names"].tobytes().decode()
    return body, text.split("\n") if text else []


def request(**changes: Any) -> TrainRequest:
    return TrainRequest(**{"run_id": "r", "weights_digest": "", "round_number": 1, "shard": 0, **changes})


def evaluation(**changes: Any) -> EvaluateRequest:
    return EvaluateRequest(**{"run_id": "r", "weights_digest": "", "round_number": 1, "shard": 0, **changes})


def head_of(num_outputs: int = 3, feature_dim: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "weight": generator.normal(size=(num_outputs, feature_dim)).astype(np.float32),
        "bias": generator.normal(size=num_outputs).astype(np.float32),
    }


def naming(*index: int) -> dict[str, np.ndarray]:
    return {"index": np.array(index, dtype=np.int64)}


def raw(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(value) for name, value in arrays.items()})
