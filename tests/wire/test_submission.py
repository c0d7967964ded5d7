"""The one run key of both apps: what is submitted arrives, and what is no submission is refused."""

from __future__ import annotations

import json
import uuid

import pytest

from fedgraft.errors import WireError
from fedgraft.submission import RunFacts, Submission, read_submission

FACTS = RunFacts(run_id=str(uuid.UUID(int=3)), num_hosts=2, threads=3, prepared_seconds={"data": 0.5})


def test_a_submission_arrives_as_it_was() -> None:
    sent = Submission('{"name": "ä \\"quoted\\"", "seed": 9223372036854775807}', FACTS)
    came = read_submission({"scenario": sent.to_run_config()})
    assert came.run == FACTS
    assert json.loads(came.scenario_json) == json.loads(sent.scenario_json)


def test_the_name_of_a_shipped_scenario_is_a_submission() -> None:
    """`flwr run .` knows no run of ours: the name stands for it, and always for the same run."""
    came = read_submission({})
    assert json.loads(came.scenario_json)["name"] == "quickstart"
    assert read_submission({"scenario": "quickstart"}) == came


def envelope(**changes: object) -> str:
    return json.dumps({"scenario": {}, "run": {**FACTS.model_dump(), **changes}})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (envelope(protocol=99), "the submission has protocol 99, this release of FedGraft knows 1"),
        (envelope(schema_number=99), "the submission has schema 99, this release of FedGraft knows 1"),
        (envelope(run_id="../../etc/passwd"), "holds no submission of FedGraft: 1 validation error"),
        (envelope(num_hosts=0), "num_hosts"),
        (envelope(stray=1), "stray"),
        ("{", "the run key 'scenario' holds no submission of FedGraft"),
        ("{}", "the run key 'scenario' holds no submission of FedGraft"),
        ('{"run": 3}', "the run key 'scenario' holds no submission of FedGraft"),
        ('{"scenario": {}, "run": null}', "the run key 'scenario' holds no submission of FedGraft"),
    ],
)
def test_what_is_no_submission_is_refused(value: str, text: str) -> None:
    with pytest.raises(WireError) as caught:
        read_submission({"scenario": value})
    assert text in str(caught.value)
