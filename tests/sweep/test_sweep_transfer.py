"""Runs of clients alone beside a comparison, and the gains that the report makes of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_scenarios import SMALL, changed

import fedgraft
from fedgraft.errors import ScenarioError
from scenarios.comparison.analysis import analyse
from scenarios.sweep.plan import plan

RATE = "train.optimizer.learning_rate"


def write(folder: Path, **compare: Any) -> Path:
    path = folder / "alone.yaml"
    block = {"grid": {"strategy": ["fedavg", "ditto"]}, "seeds": 2, **compare}
    path.write_text(yaml.safe_dump({**changed(SMALL, {}), "compare": block}, sort_keys=False))
    return path


def test_one_run_alone_for_each_way_in_which_contenders_train(tmp_path: Path) -> None:
    """Strategy and start say nothing of a client alone; what it trains, and in which circumstance, does."""
    found = plan(
        write(
            tmp_path,
            grid={"strategy": ["fedavg", "ditto"], "data.partition.alpha": [0.1, 9]},
            list=[{"strategy": "fedper", "head": "adapter"}, {"strategy": "fedavg", "init": "ridge"}],
            seeds=[4],
            transfer=True,
        )
    )
    alone = [run for run in found.runs if run.planned.role == "alone"]
    assert [(run.planned.contender, run.planned.condition["data.partition.alpha"]) for run in alone] == [
        ("alone", 0.1),
        ("alone head=adapter", 0.1),
        ("alone", 9),
        ("alone head=adapter", 9),
    ]
    assert {run.scenario.strategy.name for run in alone} == {"local-only"}
    assert {run.scenario.server.rounds for run in alone} == {4}
    assert found.contenders == ("fedavg", "ditto", "fedper", "fedavg init=ridge")
    assert found.own_answers == {"fedper"}


def test_a_contender_that_is_each_client_alone_is_not_run_twice(tmp_path: Path) -> None:
    found = plan(write(tmp_path, grid={"strategy": ["fedavg", "local-only"]}, seeds=1, transfer=True))
    assert [run.planned.contender for run in found.runs] == ["fedavg", "local-only"]


def test_bad_transfer_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        plan(write(tmp_path, transfer={"server.rounds": [1, 2], "strategy.mu": [1]}))
    assert "compare.transfer: came the key 'server.rounds'; expected one that says how a client trains" in str(
        caught.value
    )
    assert "came the key 'strategy.mu'" in str(caught.value)
    with pytest.raises(ScenarioError, match=r"train\.batch_size.*came 0"):
        plan(write(tmp_path, transfer={"train.batch_size": [0]}))


def scores(directory: Path, part: str) -> dict[str, list[tuple[int, float, float]]]:
    """Return client -> (round, loss, score) of a run's own file."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    with (directory / "client_metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["part"] == part:
                found.setdefault(row["client"], []).append((int(row["round"]), float(row["loss"]), float(row["score"])))
    return found


def test_each_client_takes_the_round_and_the_rate_that_its_own_validation_part_likes_best(tmp_path: Path) -> None:
    """The gains of the report, made again from the files of the runs."""
    path = write(tmp_path)
    first = fedgraft.compare(path, out=tmp_path / "c", jobs=1)
    assert analyse(first).conditions[0].transfer.own is None  # type: ignore[union-attr]
    stamps = {run.id: (run.directory / "summary.json").stat().st_mtime_ns for run in first.runs}
    added = [f"compare.transfer={{{RATE}: [0.001, 0.1, 1]}}"]
    found = fedgraft.compare(path, added, out=tmp_path / "c", jobs=1, resume=True)
    assert len(found.runs) == 4 + 6
    now = {run.id: (run.directory / "summary.json").stat().st_mtime_ns for run in found.runs}
    assert now.items() >= stamps.items()
    alone = [run for run in found.runs if run.role == "alone"]
    assert {run.tuned[RATE] for run in alone} == {0.001, 0.1, 1}
    assert {run.run.summary["rounds"] for run in found.runs} == {4}
    analysis = analyse(found)
    assert list(analysis.contenders) == ["fedavg", "ditto"]
    assert [row.contender for row in analysis.conditions[0].rows] == ["fedavg", "ditto"]
    assert analysis.metric.name == "central/accuracy"
    report = analysis.conditions[0].transfer
    assert report is not None
    rates_taken = set()
    for entry in report.transfers:
        if entry.kind == "personal-against-global":
            continue
        part = "validation" if entry.contender == "fedavg" else "personal"
        for run in found.runs:
            if run.contender != entry.contender:
                continue
            ours = {client: rows[-1][2] for client, rows in scores(run.directory, part).items()}
            own: dict[str, tuple[float, float, Any]] = {}
            for other in alone:
                if other.seed == run.seed:
                    for client, rows in scores(other.directory, "personal").items():
                        for _, loss, score in rows:
                            own[client] = min(own.get(client, (np.inf, 0.0, 0)), (loss, score, other.tuned[RATE]))
            rates_taken |= {rate for _, _, rate in own.values()}
            expected = np.mean([ours[client] - own[client][1] for client in ours])
            assert entry.gain.values[run.seed] == pytest.approx(expected, abs=1e-12)
    assert len(rates_taken) > 1  # clients differ in what is best for them
