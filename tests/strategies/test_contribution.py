"""What a client contributed and the run without it, against really running without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fedgraft
from clients.leave_out import HeadsWithout
from clients.statistics import statistics_sums
from fedgraft.cli import app
from fedgraft.closed_form import LeaveOut, regression_moments, regression_targets, ridge
from fedgraft.errors import StoreError, WireError
from fedgraft.recipes import Recipe
from scenarios.schema import Scenario

SIZES = {"anna": 60, "ben": 3, "cleo": 25, "dora": 12}
DIM = 6
CASES = {
    "ridge": {"name": "ridge", "penalty": 0.7},
    "ridge without a bias": {"name": "ridge", "penalty": 0.7},
    "lda": {"name": "lda", "shrinkage": 0.2},
    "ncm": "ncm",
    "ncm, cosine": "ncm",
    "fedcof": "fedcof",
}
HEADS: dict[str, Any] = {"ridge without a bias": {"name": "linear", "bias": False}, "ncm, cosine": "cosine"}


def federation(path: Path, without: str | None = None, task: str = "classes") -> None:
    """Write the samples of natural clients, with a test part of their own, less those of one client."""
    draw = np.random.default_rng(5)
    owners = np.repeat([*SIZES, "test"], [*SIZES.values(), 90])
    classes = draw.integers(0, 3, len(owners))
    features = draw.standard_normal((len(owners), DIM)) + 1.2 * np.eye(3, DIM)[classes]
    labels = {"classes": classes, "labels": np.eye(3, dtype=int)[classes], "real": features[:, :2] + classes[:, None]}
    keep = owners != without
    np.savez(
        path, features=features[keep].astype(np.float32), labels=labels[task][keep], client=owners[keep],
        is_test=(owners == "test")[keep], **({} if task == "real" else {"label_names": ["a", "b", "c"]})
    )  # fmt: skip


def scenario(path: Path, strategy: Any, head: Any = "linear", task: str = "classes", **values: Any) -> Scenario:
    block = {
        "name": "left-out",
        "backbone": "identity",
        "data": {"source": {"name": "arrays", "path": str(path), "task": task}, "partition": "natural"},
        "strategy": strategy,
        "head": head,
        **values,
    }
    return Scenario.model_validate_json(json.dumps(block))


CONTRIBUTION = {"evaluation": {"contribution": True}}


def outputs(head: dict[str, Any]) -> np.ndarray:
    points = np.random.default_rng(0).standard_normal((50, DIM)) * 3
    return points @ head["weight"].T.astype(np.float64) + head.get("bias", 0.0)


@pytest.mark.parametrize("case", CASES)
def test_without_a_client_is_as_if_it_had_never_been_there(case: str, tmp_path: Path) -> None:
    """Predictions, and accuracy on the test part, equal those of a run on data that lack the client's rows."""
    federation(tmp_path / "all.npz")
    strategy, head = CASES[case], HEADS.get(case, "linear")
    whole = fedgraft.run(
        scenario(tmp_path / "all.npz", strategy, head, shards=3, **CONTRIBUTION), out=tmp_path / "whole"
    )
    plain = fedgraft.run(scenario(tmp_path / "all.npz", strategy, head), out=tmp_path / "plain")
    np.testing.assert_allclose(outputs(whole.head), outputs(plain.head), rtol=0, atol=1e-6)
    contributions = {one.client: one for one in whole.contributions()}
    assert list(contributions) == list(SIZES)
    for client in ("anna", "ben"):
        federation(tmp_path / f"{client}.npz", without=client)
        other = fedgraft.run(scenario(tmp_path / f"{client}.npz", strategy, head), out=tmp_path / f"no-{client}")
        left = whole.unlearn(client, tmp_path / f"unlearned-{client}")
        expected = outputs(other.head)
        np.testing.assert_allclose(outputs(left.head), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        one = contributions[client]
        assert one.num_train == whole.summary["num_train"] - other.summary["num_train"]
        assert one.score_without == pytest.approx(other.summary["central"]["accuracy"])
        assert one.effect == pytest.approx(
            whole.summary["central"]["accuracy"] - other.summary["central"]["accuracy"], abs=1e-8
        )


@pytest.mark.parametrize("task", ["labels", "real"])
def test_other_targets(task: str, tmp_path: Path) -> None:
    federation(tmp_path / "all.npz", task=task)
    strategy = {"name": "ridge", "penalty": 0.7}
    whole = fedgraft.run(scenario(tmp_path / "all.npz", strategy, task=task, **CONTRIBUTION), out=tmp_path / "whole")
    federation(tmp_path / "less.npz", without="cleo", task=task)
    other = fedgraft.run(scenario(tmp_path / "less.npz", strategy, task=task), out=tmp_path / "other")
    left = whole.unlearn("cleo", tmp_path / "left")
    expected = outputs(other.head)
    np.testing.assert_allclose(outputs(left.head), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    metric = "accuracy" if task == "labels" else "mean_squared_error"
    assert whole.contributions()[2].score_without == pytest.approx(other.summary["central"][metric], rel=1e-5)


def test_penalty_is_the_run_s_own(tmp_path: Path) -> None:
    """The one that was chosen with all clients, which a run without one of them might choose otherwise."""
    federation(tmp_path / "all.npz")
    whole = fedgraft.run(scenario(tmp_path / "all.npz", "ridge", **CONTRIBUTION), out=tmp_path / "whole")
    penalty = next(row["penalty"] for row in whole.metrics if row["group"] == "train")
    federation(tmp_path / "less.npz", without="dora")
    strategy = {"name": "ridge", "penalty": penalty}
    other = fedgraft.run(scenario(tmp_path / "less.npz", strategy), out=tmp_path / "other")
    left = whole.unlearn("dora", tmp_path / "left")
    np.testing.assert_allclose(outputs(left.head), outputs(other.head), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_rows", [1, 7, 40])
def test_few_rows_and_many_give_the_same_head(num_rows: int, bias: bool) -> None:
    """The identity for few rows, and solving again without them, in float64."""
    draw = np.random.default_rng(2)
    features, classes = draw.standard_normal((90, 20)) + 2, draw.integers(0, 3, 90)
    rows = np.arange(num_rows)
    pooled = regression_moments(
        statistics_sums(features, classes, np.arange(90), "classes", 3, "shared"), "classes"
    )  # fmt: skip
    rest = regression_moments(
        statistics_sums(features, classes, np.arange(num_rows, 90), "classes", 3, "shared"), "classes"
    )  # fmt: skip
    answers = regression_targets(classes[rows], "classes", 3)
    found = next(LeaveOut(pooled, (0.5,), bias).heads_without_rows(features[rows], answers))
    expected = ridge(rest, 0.5, bias)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10)


def test_unlearned_run_predicts_and_tells_nothing_of_the_client(tmp_path: Path) -> None:
    federation(tmp_path / "all.npz")
    whole = fedgraft.run(scenario(tmp_path / "all.npz", "ridge", **CONTRIBUTION), out=tmp_path / "whole")
    left = whole.unlearn("ben", tmp_path / "left")
    assert left.finished
    assert left.summary["without"] == "ben"
    assert left.summary["num_clients"] == 3
    assert {path.name for path in left.directory.iterdir()} == {
        "run.json", "scenario.yaml", "metrics.jsonl", "head.safetensors", "summary.json",
    }  # fmt: skip
    import torch

    model = left.model(torch.ones(2, DIM))
    np.testing.assert_allclose(model["logits"][0], left.head["weight"].sum(axis=1) + left.head["bias"], rtol=1e-4)
    with pytest.raises(StoreError, match=r"left already holds a run"):
        whole.unlearn("anna", tmp_path / "left")
    with pytest.raises(StoreError, match=r"no client 'bem'; did you mean 'ben'"):
        whole.unlearn("bem", tmp_path / "again")
    with pytest.raises(StoreError, match=r"kept no contribution.csv.*evaluation.contribution=true"):
        left.contributions()


def test_command_line(tmp_path: Path) -> None:
    federation(tmp_path / "all.npz")
    whole = fedgraft.run(scenario(tmp_path / "all.npz", "ncm", **CONTRIBUTION), out=tmp_path / "whole")
    shown = CliRunner().invoke(app, ["contribution", str(tmp_path / "whole"), "--json"])
    rows = json.loads(shown.output)
    assert sorted(row["client"] for row in rows) == sorted(SIZES)
    assert [row["effect"] for row in rows] == sorted((row["effect"] for row in rows), reverse=True)
    table = CliRunner().invoke(app, ["contribution", str(tmp_path / "whole")]).output
    assert "accuracy with all clients" in table
    done = CliRunner().invoke(
        app, ["unlearn", str(tmp_path / "whole"), "--client", "anna", "--out", str(tmp_path / "n")]
    )
    assert done.exit_code == 0, done.output
    assert "still holds heads" in done.output
    np.testing.assert_array_equal(fedgraft.load(tmp_path / "n").head["weight"].shape, whole.head["weight"].shape)


def test_no_test_part_leaves_the_scores_open(tmp_path: Path) -> None:
    federation(tmp_path / "all.npz")
    values = {"evaluation": {"contribution": True, "central": False}}
    whole = fedgraft.run(scenario(tmp_path / "all.npz", "ncm", **values), out=tmp_path / "whole")
    assert all(one.effect is None for one in whole.contributions())
    assert "no central test part" in CliRunner().invoke(app, ["contribution", str(tmp_path / "whole")]).output
    assert whole.unlearn("anna", tmp_path / "left").finished


def test_strategies_that_train_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"strategy fedavg can't be made without a client"):
        scenario(tmp_path / "x.npz", "fedavg", **CONTRIBUTION)


def without_all(recipe: Recipe, pooled: Any) -> HeadsWithout:
    draw = np.random.default_rng(1)
    return HeadsWithout(draw.standard_normal((9, DIM)), np.arange(9) % 3, "classes", 3, pooled, recipe)


def test_sums_that_are_not_those_of_the_form() -> None:
    with pytest.raises(WireError, match=r"pooled sums: missing second_moment"):
        without_all(
            Recipe("ridge", {"penalty": 1.0, "bias": 1.0}), {"class_count": np.ones(3), "class_sum": np.ones((3, DIM))}
        )


def test_client_that_holds_everything() -> None:
    pooled = {"class_count": np.array([1.0, 1, 0]), "class_sum": np.ones((3, DIM))}
    with pytest.raises(WireError, match=r"without client 'anna' nothing is left: it has 3 samples, the pooled sums"):
        without_all(Recipe("nearest_mean", {"temperature": 1.0}), pooled).stack([np.arange(3)], ["anna"])


@pytest.mark.parametrize("strategy", ["ncm", "fedcof"])
def test_only_clients_that_came_are_left_out(strategy: str, tmp_path: Path) -> None:
    """Of a round to which half of them come, the others took no part."""
    federation(tmp_path / "all.npz")
    values = {**CONTRIBUTION, "availability": {"dropout": 0.4}, "seed": 2}
    whole = fedgraft.run(scenario(tmp_path / "all.npz", strategy, **values), out=tmp_path / "whole")
    row = next(row for row in whole.metrics if row["group"] == "train")
    names = [one.client for one in whole.contributions()]
    assert 0 < len(names) == row["num_clients"] < 4
    assert set(names) < set(SIZES)
