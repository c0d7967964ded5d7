"""Small federations of made features behind the real ClientApp, with as many hosts as a test likes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict
from numpy.typing import NDArray

from clients.app import app
from clients.host import forget_hosts
from fedgraft.simulation.flower_identity import claim_identity
from fedgraft.simulation.inline import FIRST_HOST, RUN, InlineGrid
from fedgraft.submission import RunFacts, Submission
from fedgraft.workspace import Workspace, open_workspace
from scenarios.schema import Scenario
from server.checkpoint import Counters
from server.roster import call_the_roll
from server.statistics import Inquiry, Questions

FEATURE_DIM = 6


@dataclass
class Asked:
    """An inquiry, and the data that only a test may see whole."""

    inquiry: Inquiry
    workspace: Workspace

    @property
    def clients(self) -> list[NDArray[np.int64]]:
        """Each client's training rows, in the order of the roster."""
        train = self.workspace.federation.train
        return [train.of(number) for number in range(len(train))]

    @property
    def rows(self) -> NDArray[np.int64]:
        """All training rows."""
        return np.concatenate(self.clients)

    @property
    def features(self) -> NDArray[np.float64]:
        """All samples' features, `(num_samples, FEATURE_DIM)`."""
        return self.workspace.features.astype(np.float64)

    @property
    def answers(self) -> NDArray[np.float64]:
        """All samples' targets as rows of numbers: one-hot classes, or as they are."""
        samples = self.workspace.federation.samples
        if samples.task == "classes":
            return np.eye(len(samples.label_names))[samples.targets]
        return samples.targets.reshape(samples.num_samples, -1).astype(np.float64)


def scenario(task: str, shards: int, partition: dict[str, Any] | None = None) -> Scenario:
    """Return a scenario of 150 samples, most of them in training parts of 6 uneven clients."""
    source = {"name": "synthetic", "task": task, "num_samples": 150, "num_classes": 3, "num_targets": 2}
    source |= {"num_features": FEATURE_DIM, "separation": 2.0}
    values = {
        "name": "sums",
        "seed": 3,
        "backbone": {"name": "identity"},
        "data": {"source": source, "partition": partition or {"name": "sizes", "sizes": [40, 1, 3, 20, 50, 6]}},
        "shards": shards,
    }
    return Scenario.model_validate_json(json.dumps(values))


@contextmanager
def federation(task: str = "classes", shards: int = 1, num_hosts: int = 1, **values: Any) -> Iterator[Asked]:
    """Open an inquiry of the hosts of a federation."""
    resolved = scenario(task, shards, **values)
    facts = RunFacts(run_id="sums-of-features", num_hosts=num_hosts)
    config = {"scenario": Submission(resolved.model_dump_json(), facts).to_run_config()}
    claim_identity(RUN)
    contexts = {}
    for number in range(num_hosts):
        node = {"partition-id": number, "num-partitions": num_hosts}
        contexts[FIRST_HOST + number] = Context(RUN, FIRST_HOST + number, node, RecordDict(), config)
    grid, counters = InlineGrid(app, contexts), Counters()
    try:
        roster = call_the_roll(grid, facts.run_id, num_hosts, shards, counters, 10.0)
        inquiry = Inquiry(grid, Questions(roster, facts.run_id, "", FEATURE_DIM), counters, 10.0)
        yield Asked(inquiry, open_workspace(resolved.data, resolved.seed, resolved.backbone, resolved.features))
    finally:
        forget_hosts()


Opened = Callable[..., Asked]
