"""The run directory: rows as other tools read them, and what stands in the way of a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_scenarios import small

from fedgraft.errors import StoreError
from fedgraft.progress import report
from fedgraft.submission import RunFacts, Submission
from scenarios.schema import Scenario
from server.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.create(Submission(small().model_dump_json(), RunFacts(run_id="run-00000001")))
    return made


def test_facts_and_scenario(directory: RunDirectory) -> None:
    facts = json.loads((directory.path / "run.json").read_text())
    assert (facts["run_id"], facts["name"], facts["seed"]) == ("run-00000001", "small", 1)
    assert (facts["schema"], facts["protocol"]) == (1, 1)
    assert {"torch", "numpy", "flwr"} <= set(facts["libraries"])
    again = Scenario.model_validate_json(json.dumps(yaml.safe_load((directory.path / "scenario.yaml").read_text())))
    assert again == small()


def test_existing_run_is_refused(directory: RunDirectory) -> None:
    with pytest.raises(StoreError, match="already holds a run; give another folder with --out, or --resume to go on"):
        RunDirectory(directory.path).create(Submission(small().model_dump_json(), RunFacts(run_id="run-00000002")))
    assert directory.facts()["run_id"] == "run-00000001"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "holds no run"),
        ('{"schema": 99}', "has schema 99, this release of FedGraft knows 1"),
        ('{"sche', "run.json is damaged"),
        ("[]", "run.json is damaged"),
    ],
)
def test_facts_refused(tmp_path: Path, content: str | None, text: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(StoreError, match=text):
        RunDirectory(tmp_path).facts()


def test_rows(directory: RunDirectory) -> None:
    directory.row(0, "central", {"num_samples": 7, "accuracy": 0.1 + 0.2})
    directory.row(1, "train", {"loss": 1e-12})
    rows = [json.loads(line) for line in (directory.path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [
        {"round": 0, "group": "central", "num_samples": 7, "accuracy": 0.1 + 0.2},
        {"round": 1, "group": "train", "loss": 1e-12},
    ]
    assert directory.latest == {"central/accuracy": 0.1 + 0.2, "train/loss": 1e-12}


def test_client_rows(directory: RunDirectory) -> None:
    """Validation is of the head after the round before; a client without samples has no loss, and no row of it."""
    columns = {
        "num_train": np.array([5, 0]),
        "steps": np.array([3, 0]),
        "train_loss": np.array([0.5, 0.0]),
        "train_loss_before": np.array([0.75, 0.0]),
        "train_loss_after": np.array([0.25, 0.0]),
        "train_score": np.array([0.8, 0.0]),
        "num_validation": np.array([0, 2]),
        "validation_loss": np.array([0.0, 0.25]),
        "validation_score": np.array([0.0, 0.5]),
    }
    directory.client_rows(4, ['St. "Mary", east', "b"], columns)
    with (directory.path / "client_metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [tuple(row.values()) for row in rows] == [
        ("4", 'St. "Mary", east', "train", "5", "3", "0.5", "0.8", "0.75", "0.25"),
        ("4", "b", "train", "0", "0", "", "", "", ""),
        ("3", "b", "validation", "2", "", "0.25", "0.5", "", ""),
    ]
    header = ["round", "client", "part", "num_samples", "steps", "loss", "score", "loss_before", "loss_after"]
    assert list(rows[0]) == header


def test_rows_after_a_checkpoint_are_cut_off(directory: RunDirectory) -> None:
    directory.row(1, "train", {"loss": 1.0})
    sizes = directory.sizes()
    before = (directory.path / "metrics.jsonl").read_bytes()
    directory.row(2, "train", {"loss": 0.5})
    directory.append("metrics.jsonl", '{"round": 3, "gro')  # killed while writing
    directory.truncate(sizes)
    assert (directory.path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("lost", ["shorter", "gone"])
def test_lost_rows_are_said(directory: RunDirectory, lost: str) -> None:
    """Cutting a file to a length that it does not have would fill it up with zeros."""
    directory.row(1, "train", {"loss": 1.0})
    sizes, path = directory.sizes(), directory.path / "metrics.jsonl"
    if lost == "gone":
        path.unlink()
    else:
        path.write_text("{")
    with pytest.raises(StoreError, match=r"metrics\.jsonl has [01] bytes, the checkpoint saw \d+: rows are lost"):
        directory.truncate(sizes)


def test_events_are_recorded(directory: RunDirectory) -> None:
    with directory.recording():
        report("note", text="one")
    report("note", text="two")
    lines = (directory.path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"kind": "note", "text": "one"}]


def test_folder_that_can_t_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"can't write .*file/run/scenario\.yaml: Not a directory"):
        RunDirectory(tmp_path / "file" / "run").create(
            Submission(small().model_dump_json(), RunFacts(run_id="run-00000001"))
        )
