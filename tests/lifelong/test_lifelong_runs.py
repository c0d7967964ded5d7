"""Classes that arrive task by task: closed forms forget nothing, gradient heads do, and both are measured."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_scenarios import relative_difference, small, small_file
from stopped_runs import stopped_in

import fedgraft
from fedgraft.conduct import run_resolved
from fedgraft.data.federation import Federation, build_federation
from fedgraft.errors import DataError, FedGraftError
from scenarios.schema import Scenario

TASKS = [[0, 3], [1], ["class-2"]]
CLASSES = [[0, 3], [1], [2]]
BATCH = {"train": {"local_steps": 1, "batch_size": 500, "optimizer": {"name": "sgd", "learning_rate": 0.5}}}
CLOSED_FORMS: dict[str, dict[str, Any]] = {
    "ridge": {"strategy": {"name": "ridge", "penalty": 3.0}},
    "ridge with a relative penalty": {"strategy": {"name": "ridge", "relative_penalties": [0.01]}},
    "ncm": {"strategy": "ncm"},
    "cosine ncm": {"strategy": "ncm", "head": "cosine"},
    "lda": {"strategy": "lda"},
    "fedcof": {"strategy": "fedcof"},
}


@pytest.mark.parametrize("form", CLOSED_FORMS)
def test_a_closed_form_that_learned_task_by_task_is_that_of_all_at_once(form: str, tmp_path: Path) -> None:
    changes = {**CLOSED_FORMS[form], "shards": 2}
    at_once = ran(small(**changes), out=tmp_path / "at-once")
    by_task = ran(small(**changes, **{"data.tasks": TASKS}), out=tmp_path / "by-task")
    for name, value in at_once.head.items():
        assert np.abs(by_task.head[name] - value).max() <= 1e-6 * np.abs(value).max(), name
    assert by_task.summary["central_confusion"] == at_once.summary["central_confusion"]
    assert by_task.summary["rounds"] == 3


def test_the_order_and_number_of_tasks_do_not_matter_to_a_closed_form(tmp_path: Path) -> None:
    orders = [2, [[3], [2], [1], [0]], [["class-1", 2], [0, "class-3"]]]
    heads = [
        ran(small(strategy={"name": "ridge", "penalty": 1.0}, **{"data.tasks": tasks}), out=tmp_path / str(number)).head
        for number, tasks in enumerate(orders)
    ]
    for head in heads[1:]:
        assert relative_difference(head["weight"], heads[0]["weight"]) < 1e-6


def ran(scenario: Scenario, out: Path) -> fedgraft.Run:
    """Run a scenario without drawing pictures."""
    return run_resolved(scenario, out, pictures=False)


def descended(scenario: Scenario, federation: Federation, rounds: int) -> list[NDArray[np.float64]]:
    """Return the head `(num_classes, num_features + 1)` after each task, by gradient descent on its pooled samples.

    With one step on the whole part a round, FedAvg's weighted mean is a step on all clients' samples together.
    """
    samples, rate = federation.samples, scenario.train.optimizer.learning_rate
    inputs = np.column_stack([samples.features(), np.ones(samples.num_samples)]).astype(np.float64)
    head, found = np.zeros((samples.num_classes, inputs.shape[1])), []
    for task in CLASSES:
        rows = federation.train.indices[np.isin(samples.targets[federation.train.indices], task)]
        for _ in range(rounds):
            outputs = np.exp(inputs[rows] @ head.T)
            wrong = outputs / outputs.sum(axis=1, keepdims=True) - np.eye(samples.num_classes)[samples.targets[rows]]
            head = head - rate * wrong.T @ inputs[rows] / len(rows)
        found.append(head.copy())
    return found


@pytest.fixture(scope="module")
def descent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, fedgraft.Run]:
    scenario = small(**BATCH, **{"data.tasks": TASKS, "server.rounds": 5, "shards": 3})
    return scenario, ran(scenario, out=tmp_path_factory.mktemp("descent") / "run")


def test_gradient_heads_train_on_the_newest_classes_only(descent: tuple[Scenario, fedgraft.Run]) -> None:
    scenario, run = descent
    expected = descended(scenario, build_federation(scenario.data, scenario.seed), 5)[-1]
    assert relative_difference(run.head["weight"], expected[:, :-1]) < 1e-5
    assert relative_difference(run.head["bias"], expected[:, -1]) < 1e-5


def test_the_matrix_is_what_each_tasks_head_gets_right(descent: tuple[Scenario, fedgraft.Run]) -> None:
    scenario, run = descent
    federation = build_federation(scenario.data, scenario.seed)
    samples, heads = federation.samples, descended(scenario, federation, 5)
    inputs = np.column_stack([samples.features(), np.ones(samples.num_samples)])
    for part, rows in (("central", federation.test), ("validation", federation.validation.indices)):
        matrix = run.summary["tasks"][part]["accuracy"]
        for after, head in enumerate(heads):
            for task in range(3):
                own = rows[np.isin(samples.targets[rows], CLASSES[task])]
                right = float(np.mean((inputs[own] @ head.T).argmax(axis=1) == samples.targets[own]))
                expected = pytest.approx(right, abs=1e-12) if task <= after else None
                assert matrix[after][task] == expected, (part, after, task)
    assert run.summary["tasks"]["central"]["forgetting"] > 0.2


def test_measures_follow_from_the_matrix(descent: tuple[Scenario, fedgraft.Run]) -> None:
    """Average of the last row; the best before the end less the end (eq. 3 of Chaudhry); the end less the diagonal."""
    found = descent[1].summary["tasks"]["central"]
    (a, _, _), (b, c, _), (d, e, f) = found["accuracy"]
    assert found["average_accuracy"] == pytest.approx((d + e + f) / 3)
    assert found["forgetting"] == pytest.approx((max(a, b) - d + c - e) / 2)
    assert found["backward_transfer"] == pytest.approx((d - a + e - c) / 2)


def test_the_table_beside_the_run_holds_the_matrix(descent: tuple[Scenario, fedgraft.Run]) -> None:
    run = descent[1]
    with (run.directory / "tasks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 6
    for row in rows:
        known = run.summary["tasks"][row["part"]]["accuracy"][int(row["after_task"]) - 1][int(row["on_task"]) - 1]
        assert float(row["accuracy"]) == pytest.approx(known, rel=1e-8)
    assert rows[0]["classes"] == "class-0 class-3"


def test_validation_after_a_task_stands_once_and_over_the_classes_so_far(
    descent: tuple[Scenario, fedgraft.Run],
) -> None:
    scenario, run = descent
    federation = build_federation(scenario.data, scenario.seed)
    targets = federation.samples.targets[federation.validation.indices]
    sizes = {row["round"]: row["num_samples"] for row in run.metrics if row["group"] == "validation"}
    rounds = [row["round"] for row in run.metrics if row["group"] == "validation"]
    assert rounds == list(range(16))
    assert sizes[5] == np.isin(targets, [0, 3]).sum()
    assert sizes[10] == np.isin(targets, [0, 3, 1]).sum()
    assert sizes[15] == len(targets)


def test_the_summary_and_the_advice_tell_of_forgetting(descent: tuple[Scenario, fedgraft.Run]) -> None:
    run = descent[1]
    text = (run.directory / "summary.txt").read_text()
    assert "accuracy on each task's classes (central test):" in text
    assert f"forgetting {run.summary['tasks']['central']['forgetting']:.4f}" in text
    assert run.summary["advice"][0]["check"] == "forgets"
    assert not any(found["check"] == "trained_too_long" for found in run.summary["advice"])


@pytest.mark.parametrize("strategy", ["fedavg", "ridge", "fedcof"])
def test_a_run_that_is_stopped_within_a_task_goes_on_with_the_same_bits(strategy: str, tmp_path: Path) -> None:
    scenario = small(strategy=strategy, **{"data.tasks": TASKS, "server.rounds": 3, "server.checkpoint_every": 2})

    with stopped_in(5 if strategy == "fedavg" else 2):
        fedgraft.run(scenario, out=tmp_path / "stopped")
    resumed = fedgraft.run(tmp_path / "stopped" / "scenario.yaml", out=tmp_path / "stopped", resume=True)
    whole = ran(scenario, out=tmp_path / "whole")
    for name, value in whole.head.items():
        assert np.array_equal(resumed.head[name], value), name
    assert resumed.summary["tasks"] == whole.summary["tasks"]


def test_the_schedule_of_the_learning_rate_starts_anew_with_each_task(tmp_path: Path) -> None:
    """Steps of one round and rate 0.5, then 0.005, in each task: after two tasks as four steps of those rates."""
    changes = {**BATCH, "data.tasks": [[0, 1], [2, 3]], "server.rounds": 2}
    schedule = {"name": "step", "every": 1, "factor_per_step": 0.01}
    run = ran(small(**changes, **{"train.schedule": schedule}), out=tmp_path / "run")
    norms = {row["round"]: row["loss"] for row in run.metrics if row["group"] == "central"}
    assert norms[0] - norms[1] > 20 * abs(norms[1] - norms[2])
    losses = [row["train_loss"] for row in run.metrics if row["group"] == "train"]
    assert losses[2] - losses[3] > 0.1, "the third round began a task, with the whole rate"


REFUSED = {
    "a class in two tasks": ([[0, 1], [1, 2, 3]], "class-1 came more than once; put each class into one task"),
    "a class left out": ([[0, 1], [3]], "class-2 came in no task; put each class into one task"),
    "an unknown name": ([[0, 1], ["cat", 3]], "no class 'cat'; there are the 4 classes class-0, class-1, class-2"),
    "an unknown number": ([[0, 1], [2, 3, 4]], "no class 4; there are the 4 classes"),
    "the same class by name and number": ([[0, 1, "class-0"], [2, 3]], "class-0 came more than once"),
    "more tasks than classes": (5, "came 5 tasks, but there are 4 classes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tasks_that_do_not_divide_the_classes_are_refused(case: str, tmp_path: Path) -> None:
    tasks, text = REFUSED[case]
    with pytest.raises(DataError) as caught:
        fedgraft.run(small(**{"data.tasks": tasks}), out=tmp_path / "run")
    assert str(caught.value).startswith("data.tasks: ")
    assert text in str(caught.value)


ILL_FORMED = {
    "[[0, 1, 2, 3]]": "expected two tasks at least, none of them empty",
    "[[0, 1], []]": "came 2 task(s), of 2, 0 classes; expected two tasks at least",
    "1": "data.tasks",
    "[0, 1]": "expected lists of classes, such as [[0, 1], [2, 3]], or a number of tasks from 2",
    "all": "came 'all'; expected lists of classes",
    "[[0, -1], [2]]": "data.tasks",
}


@pytest.mark.parametrize("value", ILL_FORMED)
def test_ill_formed_tasks_are_refused_with_their_key(value: str, tmp_path: Path) -> None:
    with pytest.raises(FedGraftError) as caught:
        fedgraft.run(small_file(tmp_path), [f"data.tasks={value}"], out=tmp_path / "run")
    assert "data.tasks" in str(caught.value)
    assert ILL_FORMED[value] in str(caught.value)


CLASHES = {
    "scaffold": ({"strategy": "scaffold"}, "strategy: came scaffold, whose clients keep what belongs to their samples"),
    "personal heads": ({"strategy": "ditto"}, "take fedavg or another one that keeps nothing at clients"),
    "personal ridge": ({"strategy": "personal-ridge"}, "strategy: came personal-ridge"),
    "zero shot": ({"strategy": "zero-shot"}, "data.tasks: came with strategy zero-shot, which learns nothing"),
    "patience": ({"server.patience": 2}, "server.patience: came with data.tasks, but the loss rises when new classes"),
    "alignment": (
        {"align": "standardise"},
        "align: came standardise beside data.tasks, but its moments hold classes that",
    ),
    "blocks": (
        {"unfreeze": {"cut": "x"}, "backbone": "timm:test_resnet"},
        "unfreeze: came with data.tasks, but what is",
    ),
    "rounds that are missed": (
        {"strategy": "ridge", "availability": {"dropout": 0.5}},
        "availability: came with data.tasks and ridge, which has one round a task and may not miss it",
    ),
    "calibration": ({"calibrate": "ccvr"}, "calibrate: came with data.tasks"),
    "contribution": (
        {"strategy": "ridge", "evaluation.contribution": True},
        "evaluation.contribution: came with data.tasks, but hosts have the samples of one task at a time",
    ),
    "sites": ({"data.source": "sites"}, "data.tasks: is for simulations only"),
}


@pytest.mark.parametrize("case", CLASHES)
def test_what_does_not_go_with_tasks_is_refused(case: str, tmp_path: Path) -> None:
    changes, text = CLASHES[case]
    partition = {"data.partition": "natural"} if case == "sites" else {}
    with pytest.raises(FedGraftError) as caught:
        fedgraft.run(small_file(tmp_path, **changes, **partition, **{"data.tasks": 2}), out=tmp_path / "run")
    assert text in str(caught.value)


def test_targets_that_are_no_classes_have_no_tasks(tmp_path: Path) -> None:
    source = {"name": "synthetic", "task": "real", "num_samples": 60, "num_features": 3}
    scenario = small(**{"data.tasks": 2, "data.source": source, "data.partition": {"name": "iid", "clients": 2}})
    with pytest.raises(DataError, match=r"data.tasks lists classes, but the targets are 'real'; set it to null"):
        ran(scenario, out=tmp_path / "run")


def test_a_site_refuses_tasks() -> None:
    from clients.settings import ClientPart

    part = ClientPart.model_validate_json(small(shards=1, **{"data.tasks": 2}).model_dump_json())
    with pytest.raises(
        FedGraftError, match=r"data.tasks: is for simulations only: a site's samples do not come and go"
    ):
        part.check_for_a_site()


def test_a_federation_without_a_central_test_part_is_judged_by_its_clients(tmp_path: Path) -> None:
    run = ran(small(strategy="ncm", **{"data.tasks": 2, "data.test_fraction": 0.0}), out=tmp_path / "run")
    assert "central" not in run.summary["tasks"]
    assert run.summary["tasks"]["validation"]["average_accuracy"] > 0.5
    assert "clients' validation parts" in (run.directory / "summary.txt").read_text()


def test_the_report_shows_a_heat_map_of_each_contender(tmp_path: Path) -> None:
    from scenarios.comparison.analysis import analyse
    from scenarios.comparison.gathered import comparison_of_runs
    from scenarios.report.compose import compose
    from scenarios.report.exported_tables import write_tables
    from scenarios.report.plots import Heat

    for strategy in ("fedavg", "ncm"):
        ran(small(strategy=strategy, **{"data.tasks": TASKS}), out=tmp_path / strategy)
    comparison = comparison_of_runs([tmp_path / "fedavg", tmp_path / "ncm"])
    analysis = analyse(comparison)
    topic = next(
        topic for topic in compose(comparison, analysis).parts[0].topics if topic.title == "Tasks one after another"
    )
    by_key = {figure.key: figure.plot for figure in topic.figures}
    for strategy in ("fedavg", "ncm"):
        plot = by_key[f"tasks-{strategy}"]
        assert isinstance(plot, Heat)
        known = json.loads((tmp_path / strategy / "summary.json").read_text())["tasks"]["central"]["accuracy"]
        assert np.array_equal(plot.values, np.array(known, dtype=np.float64), equal_nan=True)
        assert plot.rows == ("after task 1", "after task 2", "after task 3")
    assert topic.table is not None
    assert {row.cells[0].text for row in topic.table.rows} == {"FedAvg", "nearest class mean"}
    write_tables(comparison, analysis, tmp_path / "tables")
    with (tmp_path / "tables" / "tasks.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 6
