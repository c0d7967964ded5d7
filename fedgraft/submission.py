"""What a run is started with: the one run key of both Flower apps, `scenario`.

It holds an envelope as JSON: the resolved scenario and the run's own facts. The name of a shipped scenario
does too, so that `flwr run .` works without FedGraft's command line.
"""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from fedgraft.compute_settings import Device
from fedgraft.errors import WireError
from fedgraft.settings import Settings
from fedgraft.wire.protocol import PROTOCOL, SCHEMA, check_number


class RunFacts(Settings):
    """A run's identity and place."""

    schema_number: int = SCHEMA
    protocol: int = PROTOCOL
    run_id: str = Field(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9-]+$")
    """Ours, not Flower's: it keys idempotence, client state and ledger."""
    directory: str = ""
    """The run directory, absolute; empty: made by the server below `runs/`."""
    resume: bool = False
    num_hosts: PositiveInt = 1
    threads: PositiveInt = 1
    feature_dim: NonNegativeInt = 0
    """Length of a feature vector, for the costs by which all hosts place the clients alike; 0: not known."""
    device: Device = "auto"
    sites: tuple[str, ...] = ()
    """Names of the sites of a deployed run; empty: a simulation."""
    prepared_seconds: dict[str, float] = Field(default_factory=dict)
    """Seconds that the command line spent before the server started, by phase."""
    resident: bool = True
    """Whether all messages to a host come to one process, whose memory holds its clients' state."""
    pictures: bool = True
    """Whether pictures are drawn at the end."""


@dataclass(frozen=True)
class Submission:
    """A resolved scenario, as JSON, and the run's facts."""

    scenario_json: str
    run: RunFacts

    @property
    def digest(self) -> str:
        """sha256 of what the scenario says, whatever the order of its keys; by it a site allows a scenario."""
        text = json.dumps(json.loads(self.scenario_json), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_run_config(self) -> str:
        """Return the value of the run key `scenario`."""
        return json.dumps({"scenario": json.loads(self.scenario_json), "run": self.run.model_dump()})


def read_submission(run_config: Mapping[str, Any]) -> Submission:
    """Return the submission that an app's run settings hold.

    Raises:
        WireError: it is not one, or comes from another release.
    """
    return _parse(str(run_config.get("scenario", "quickstart")))


@functools.lru_cache(maxsize=8)
def _parse(value: str) -> Submission:
    if not value.lstrip().startswith("{"):
        return _from_name(value)
    try:
        envelope = json.loads(value)
        run = envelope["run"]
        check_number("protocol", run.get("protocol"), PROTOCOL, "the submission")
        check_number("schema", run.get("schema_number"), SCHEMA, "the submission")
        return Submission(json.dumps(envelope["scenario"]), RunFacts.model_validate_json(json.dumps(run)))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, ValidationError) as error:
        raise WireError(f"the run key 'scenario' holds no submission of FedGraft: {error}") from error


def _from_name(name: str) -> Submission:
    """Return a submission of a shipped scenario, as `flwr run .` starts it."""
    from scenarios.loader import load_scenario

    scenario = load_scenario(name)
    scenario = scenario.model_copy(update={"shards": scenario.shards or 1})
    run = RunFacts(run_id=str(uuid.uuid5(uuid.NAMESPACE_URL, name)), num_hosts=1, threads=1, resident=False)
    return Submission(scenario.model_dump_json(), run)
