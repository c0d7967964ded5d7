"""The analysis of made-up runs, by hand, and of real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from written_runs import planned, write_run

from fedgraft.errors import StoreError
from scenarios.comparison.analysis import analyse

ALPHA = "data.partition.alpha"


def rising(last: float) -> list[float]:
    return [0.1, last / 2, last]


def test_a_row_by_hand(tmp_path: Path) -> None:
    contenders = {"fedavg": lambda seed: rising(0.5 + seed / 100), "ridge": lambda seed: rising(0.6 + seed / 50)}
    found = analyse(planned(tmp_path, contenders, [1, 2, 3], target=0.3))
    (condition,) = found.conditions
    fedavg, ridge = condition.rows
    assert found.metric.name == "central/accuracy"
    assert (found.num_planned, found.num_finished, found.num_open, found.failures) == (6, 6, 0, ())
    assert fedavg.value is not None
    assert fedavg.value.mean == pytest.approx(0.52)
    assert fedavg.difference is None
    assert ridge.difference is not None
    assert ridge.difference.estimate.values == pytest.approx({1: 0.11, 2: 0.12, 3: 0.13})
    assert (ridge.difference.wins, ridge.difference.test) == (3, "t")
    assert (fedavg.best_probability, ridge.best_probability) == (0.0, 1.0)
    assert fedavg.metrics["central/loss"].mean == pytest.approx(0.48)
    assert fedavg.to_target is not None
    assert (fedavg.to_target.reached, fedavg.to_target.num_seeds) == (3, 3)
    assert fedavg.to_target.rounds is not None
    assert fedavg.to_target.rounds.mean == 2
    assert ridge.to_target is not None
    assert ridge.to_target.bytes is not None
    assert ridge.to_target.bytes.values == {1: 1000, 2: 1000, 3: 1000}
    assert ridge.to_target.seconds is not None
    assert ridge.to_target.seconds.mean == 2.0
    assert ridge.resources.bytes is not None
    assert ridge.resources.bytes.mean == 3000
    assert ridge.resources.seconds is not None
    assert ridge.resources.seconds.mean == 4.0


def test_a_target_that_is_not_reached(tmp_path: Path) -> None:
    contenders = {"fedavg": lambda seed: rising(0.5 if seed == 1 else 0.9)}
    found = analyse(planned(tmp_path, contenders, [1, 2, 3], target=0.8)).conditions[0].rows[0].to_target
    assert found is not None
    assert (found.reached, found.num_seeds) == (2, 3)
    assert found.rounds is not None
    assert found.rounds.values == {2: 2, 3: 2}


def test_curves_have_costs_and_bands(tmp_path: Path) -> None:
    found = analyse(planned(tmp_path, {"fedavg": lambda seed: [0.1, 0.2 * seed]}, [1, 2])).conditions[0]
    points = found.curves["central/accuracy"][0].points
    assert [(point.round, point.bytes, point.seconds) for point in points] == [(0, 0, 0), (1, 1000, 2)]
    assert points[1].mean == pytest.approx(0.3)
    # two values, 0.2 apart: deviation 0.1414, t(0.975, 1) = 12.706, so +- 12.706 * 0.1414 / sqrt(2) = 1.2706
    assert points[1].high == pytest.approx(0.3 + 1.2706, rel=1e-4)
    assert "central/loss" in found.curves


def test_what_came_before_and_after_the_rounds_is_paid_for(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"fedavg": lambda seed: [0.4, 0.5]}, [1])
    directory = plan.runs[0].directory
    rows = (directory / "metrics.jsonl").read_text()
    first = '{"round": 0, "group": "init", "bytes_down": 10, "bytes_up": 90, "seconds": 1.0}\n'
    last = '{"round": 1, "group": "calibrate", "bytes_down": 5, "bytes_up": 5, "seconds": 0.5}\n'
    last += '{"round": 1, "group": "calibrated", "accuracy": 0.7}\n'
    (directory / "metrics.jsonl").write_text(first + rows + last)
    points = analyse(plan).conditions[0].curves["central/accuracy"][0].points
    assert [(point.round, point.bytes, point.mean) for point in points] == [
        (0, 100, 0.4),
        (1, 1100, 0.5),
        (2, 1110, 0.7),
    ]


def test_equal_bytes_are_what_all_of_several_rounds_sent(tmp_path: Path) -> None:
    """FedAvg sends 4 x 1000 bytes, FedProx 2 x 1500: at 3000 FedAvg stands after round 3, and ridge has long ended."""
    courses = {
        "fedavg": ([0.1, 0.2, 0.3, 0.4, 0.5], 1000),
        "fedprox": ([0.1, 0.3, 0.6], 1500),
        "ridge": ([0.1, 0.9], 500),
        "fedpft": ([0.1, 0.8], 9000),
        "zero-shot": ([0.1, 0.3], 1),
    }
    plan = planned(tmp_path, {name: lambda _: [0.1] for name in courses}, [1])
    for run in plan.runs:
        shutil.rmtree(run.directory)
        course, round_bytes = courses[run.contender]
        write_run(run.directory, run.contender, course, round_bytes=round_bytes)
    found = analyse(plan).conditions[0]
    assert found.equal_bytes == 3000
    values = {row.contender: row.at_equal_bytes and row.at_equal_bytes.mean for row in found.rows}
    assert values == {"fedavg": 0.4, "fedprox": 0.6, "ridge": 0.9, "fedpft": None, "zero-shot": None}


def test_a_few_bytes_do_not_cost_a_round(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"fedavg": lambda _: [0.1, 0.2, 0.3]}, [1, 2])
    shutil.rmtree(plan.runs[0].directory)
    write_run(plan.runs[0].directory, "fedavg", [0.1, 0.2, 0.3], round_bytes=1002)
    row = analyse(plan).conditions[0].rows[0]
    assert row.at_equal_bytes is not None
    assert row.at_equal_bytes.values == {1: 0.3, 2: 0.3}


def test_runs_that_failed_or_are_damaged_are_named_and_left_out(tmp_path: Path) -> None:
    contenders = {"fedavg": lambda seed: rising(0.5 + seed / 100), "ridge": lambda seed: rising(0.6 + seed / 50)}
    plan = planned(tmp_path, contenders, [1, 2, 3, 4])
    by_id = {run.id: run for run in plan.runs}
    for seed in (1, 2):
        (by_id[f"ridge-0-{seed}"].directory / "summary.json").unlink()
    by_id["ridge-0-1"].fail("the head is not finite")
    (by_id["fedavg-0-3"].directory / "summary.json").write_text('{"strategy": ')
    found = analyse(plan)
    assert (found.num_finished, found.num_open) == (5, 1)
    assert {failure.id: failure.error for failure in found.failures}["ridge-0-1"] == "the head is not finite"
    assert "damaged" in {failure.id: failure.error for failure in found.failures}["fedavg-0-3"]
    (condition,) = found.conditions
    difference = condition.rows[1].difference
    assert difference is not None
    assert list(difference.estimate.values) == [4]
    assert condition.shared_seeds == (4,)
    assert any("ridge has no finished run of seeds 1, 2" in note for note in condition.notes)


def test_conditions_are_kept_apart(tmp_path: Path) -> None:
    contenders = {"fedavg": lambda seed: rising(0.5), "fedprox mu=0.1": lambda seed: rising(0.6)}
    plan = planned(tmp_path, contenders, [1, 2], conditions=[{ALPHA: 0.1}, {ALPHA: 10.0}])
    found = analyse(plan)
    assert [condition.title for condition in found.conditions] == ["alpha 0.1", "alpha 10.0"]
    assert found.contenders == {"fedavg": "FedAvg", "fedprox mu=0.1": "FedProx (mu=0.1)"}
    assert all(len(condition.rows) == 2 for condition in found.conditions)


def test_a_metric_that_no_run_has_is_refused(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"fedavg": lambda _: [0.1]}, [1], metric="personal/accuracy")
    with pytest.raises(
        StoreError, match="came 'personal/accuracy', which no run ended with; there are: central/accuracy"
    ):
        analyse(plan)


def test_no_finished_run_is_no_analysis(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"fedavg": lambda _: [0.1]}, [1])
    (plan.runs[0].directory / "summary.json").unlink()
    plan.runs[0].fail("out of memory")
    with pytest.raises(StoreError, match="has finished, so there is nothing to say\n  fedavg-0-1: out of memory"):
        analyse(plan)
