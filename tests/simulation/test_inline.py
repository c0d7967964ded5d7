"""Whole runs in one process, against a plain FedAvg written for this test."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_fedavg import accuracy_and_loss, plain_fedavg
from small_scenarios import relative_difference, small

import fedgraft
from fedgraft.data.federation import Federation, build_federation
from scenarios.schema import Scenario


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return small()


@pytest.fixture(scope="module")
def federation(scenario: Scenario) -> Federation:
    return build_federation(scenario.data, scenario.seed)


@pytest.fixture(scope="module")
def heads(scenario: Scenario) -> list[dict[str, np.ndarray]]:
    return plain_fedavg(scenario)


@pytest.fixture(scope="module")
def finished(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> fedgraft.Run:
    return fedgraft.run(scenario, out=tmp_path_factory.mktemp("inline") / "run")


def test_is_plain_fedavg(finished: fedgraft.Run, heads: list[dict[str, np.ndarray]]) -> None:
    """float32 on both sides; ours sums updates, the plain one averages heads."""
    assert np.abs(heads[-1]["weight"]).max() > 0.1
    for name, value in finished.head.items():
        assert value.dtype == np.float32
        assert relative_difference(value, heads[-1][name]) < 1e-5


def rows_of(run: fedgraft.Run, group: str) -> dict[int, dict[str, Any]]:
    rows = [row for row in run.metrics if row["group"] == group]
    assert len({row["round"] for row in rows}) == len(rows)
    return {row["round"]: row for row in rows}


def test_central_rows(finished: fedgraft.Run, federation: Federation, heads: list[dict[str, np.ndarray]]) -> None:
    rows = rows_of(finished, "central")
    x, y = federation.samples.features()[federation.test], federation.samples.targets[federation.test]
    assert sorted(rows) == [0, 1, 2, 3, 4]
    for number, row in rows.items():
        accuracy, loss = accuracy_and_loss(heads[number], x, y)
        assert row["num_samples"] == len(y)
        assert row["loss"] == pytest.approx(loss, rel=1e-4)
        # One sample on the border between two classes may fall to either side.
        assert abs(row["accuracy"] - accuracy) * len(y) < 1.5


def test_validation_rows(finished: fedgraft.Run, federation: Federation, heads: list[dict[str, np.ndarray]]) -> None:
    rows = rows_of(finished, "validation")
    everything = np.concatenate([federation.validation.of(client) for client in range(federation.num_clients)])
    x, y = federation.samples.features()[everything], federation.samples.targets[everything]
    assert sorted(rows) == [0, 1, 2, 3, 4]
    for number, row in rows.items():
        accuracy, loss = accuracy_and_loss(heads[number], x, y)
        assert (row["num_clients"], row["num_samples"]) == (9, len(y))
        assert row["loss"] == pytest.approx(loss, rel=1e-4)
        assert abs(row["accuracy"] - accuracy) * len(y) < 1.5


def test_client_rows(finished: fedgraft.Run, federation: Federation, heads: list[dict[str, np.ndarray]]) -> None:
    with (finished.directory / "client_metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(int(row["round"]), row["client"], row["part"]): row for row in rows}
    assert len(found) == len(rows)
    batch = finished.scenario.train.batch_size
    for position, name in enumerate(federation.client_names):
        num_train = federation.train.counts[position]
        for number in range(1, 5):
            row = found.pop((number, name, "train"))
            assert (int(row["num_samples"]), int(row["steps"])) == (num_train, 2 * -(-num_train // batch))
        held_out = federation.validation.of(position)
        for number in range(5 if len(held_out) else 0):
            row = found.pop((number, name, "validation"))
            x, y = federation.samples.features()[held_out], federation.samples.targets[held_out]
            accuracy, loss = accuracy_and_loss(heads[number], x, y)
            assert float(row["loss"]) == pytest.approx(loss, rel=1e-4)
            assert abs(float(row["score"]) - accuracy) * len(y) < 1.5
    assert not found


def test_summary_is_of_the_last_head(finished: fedgraft.Run) -> None:
    summary, central = finished.summary, rows_of(finished, "central")[4]
    assert (summary["rounds"], summary["num_clients"]) == (4, 9)
    assert summary["central"]["accuracy"] == central["accuracy"]
    assert summary["validation"]["accuracy"] == rows_of(finished, "validation")[4]["accuracy"]
    confusion = np.array(summary["central_confusion"])
    assert np.trace(confusion) / confusion.sum() == pytest.approx(central["accuracy"])
    for name in ("accuracy.png", "partition.png"):
        assert (finished.directory / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "accuracy, central test" in (finished.directory / "summary.txt").read_text()


def test_train_rows_count_bytes(finished: fedgraft.Run) -> None:
    """Down: a 4 x 6 head with bias, 9 positions, each with NumPy's 128 bytes of header; and the request's text."""
    rows = rows_of(finished, "train")
    assert sorted(rows) == [1, 2, 3, 4]
    for row in rows.values():
        arrays = (4 * 6 + 4) * 4 + 9 * 8 + 3 * 128
        assert 0 < row["bytes_down"] - arrays < 500
    assert finished.summary["bytes_down"] > sum(row["bytes_down"] for row in rows.values())


def test_bits_are_the_same_again(finished: fedgraft.Run, scenario: Scenario, tmp_path: Path) -> None:
    again = fedgraft.run(scenario, out=tmp_path / "run")
    assert (again.directory / "head.safetensors").read_bytes() == (finished.directory / "head.safetensors").read_bytes()


def test_another_seed_is_another_run(finished: fedgraft.Run, tmp_path: Path) -> None:
    other = fedgraft.run(small(seed=2), out=tmp_path / "run")
    assert relative_difference(other.head["weight"], finished.head["weight"]) > 0.01


@pytest.mark.parametrize("shards", [3, 7])
def test_shards_change_no_more_than_rounding(finished: fedgraft.Run, tmp_path: Path, shards: int) -> None:
    other = fedgraft.run(small(shards=shards), out=tmp_path / "run")
    for name, value in other.head.items():
        assert relative_difference(value, finished.head[name]) < 1e-6
    ours, theirs = rows_of(other, "central"), rows_of(finished, "central")
    assert [row["loss"] for row in ours.values()] == pytest.approx([row["loss"] for row in theirs.values()], rel=1e-5)


def test_more_shards_than_clients(finished: fedgraft.Run, tmp_path: Path) -> None:
    other = fedgraft.run(small(shards=20), out=tmp_path / "run")
    assert relative_difference(other.head["weight"], finished.head["weight"]) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": {"central": False}},
        {"evaluation": {"per_client": False}},
        {"evaluation": {"every": 3}},
        {"server.checkpoint_every": 100},
        {"data.test_fraction": 0.2, "strategy": "flower:FedAvg"},
    ],
)
def test_what_changes_no_number_of_the_head(finished: fedgraft.Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Flower's FedAvg averages float32 heads, ours float64 updates: to rounding."""
    other = fedgraft.run(small(**changes), out=tmp_path / "run")
    for name, value in other.head.items():
        assert relative_difference(value, finished.head[name]) < (1e-5 if "strategy" in changes else 1e-12)


def test_evaluation_every_third_round(tmp_path: Path) -> None:
    run = fedgraft.run(small(evaluation={"every": 3}), out=tmp_path / "run")
    assert sorted(rows_of(run, "central")) == sorted(rows_of(run, "validation")) == [0, 3, 4]


def test_no_central_test_part(tmp_path: Path) -> None:
    run = fedgraft.run(small(**{"data.test_fraction": 0.0}), out=tmp_path / "run")
    assert run.summary["central"] == {}
    assert not rows_of(run, "central")
    assert run.summary["validation"]["accuracy"] > 0


def test_nothing_to_evaluate_at_all(tmp_path: Path) -> None:
    changes = {"data.test_fraction": 0.0, "data.validation_fraction": 0.0}
    run = fedgraft.run(small(**changes), out=tmp_path / "run")
    assert (run.summary["central"], run.summary["validation"]) == ({}, {})
    assert (run.directory / "accuracy.png").exists()


def test_empty_clients_take_part_with_weight_0(tmp_path: Path) -> None:
    """40 samples for 40 clients: most have one or none, and the result is that of those who have."""
    changes = {
        "data.source.num_samples": 40,
        "data.partition": {"name": "dirichlet", "clients": 40, "alpha": 0.1},
        "data.test_fraction": 0.0,
    }
    scenario = small(**changes)
    federation = build_federation(scenario.data, scenario.seed)
    assert (federation.train.counts == 0).sum() > 10
    counts = federation.train.counts
    run = fedgraft.run(scenario, out=tmp_path / "run")
    assert run.summary["num_clients"] == 40
    assert run.summary["num_train"] == counts.sum()
    lines = (run.directory / "client_metrics.csv").read_text().splitlines()
    empty = federation.client_names[int(np.flatnonzero(counts == 0)[0])]
    assert f"1,{empty},train,0,0,,,," in lines


def test_a_round_of_empty_clients_leaves_the_head(tmp_path: Path) -> None:
    """One client a round, most of them empty."""
    changes = {
        "data.source.num_samples": 40,
        "data.partition": {"name": "dirichlet", "clients": 40, "alpha": 0.1},
        "data.test_fraction": 0.0,
        "server": {"rounds": 6, "clients_per_round": 1},
    }
    run = fedgraft.run(small(**changes), out=tmp_path / "run")
    assert sorted(rows_of(run, "train")) == [1, 2, 3, 4, 5, 6]
    assert any("train_loss" not in row for row in rows_of(run, "train").values())


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"data.source.task": "labels", "data.partition": {"name": "iid", "clients": 5}}, "micro_f1"),
        (
            {"data.source": {"name": "synthetic", "task": "real", "num_targets": 2, "num_samples": 200}}
            | {"data.partition": {"name": "iid", "clients": 5}, "train.optimizer.learning_rate": 0.01},
            "r_squared",
        ),
        ({"head": {"name": "mlp", "hidden": [16]}}, "accuracy"),
        ({"head": "cosine", "train.optimizer": {"name": "adam", "learning_rate": 0.03}}, "accuracy"),
        ({"strategy": {"name": "flower:FedProx", "parameters": {"proximal_mu": 0.1}}}, "accuracy"),
    ],
)
def test_other_tasks_heads_and_strategies_learn(tmp_path: Path, changes: dict[str, Any], metric: str) -> None:
    run = fedgraft.run(small(**changes), out=tmp_path / "run")
    rows = rows_of(run, "central")
    assert rows[4]["loss"] < rows[0]["loss"]
    assert rows[4][metric] > rows[0][metric]
