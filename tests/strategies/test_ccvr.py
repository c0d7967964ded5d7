"""CCVR: its Gaussians against those of pooled samples, its training against scikit-learn, and its place in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_scenarios import SMALL, changed, small
from typer.testing import CliRunner

import fedgraft
from clients.statistics import statistics_sums
from fedgraft.cli import app
from fedgraft.errors import ScenarioError
from scenarios.schema import Scenario
from strategies.base import Replies
from strategies.ccvr import CCVR, MOMENTS, spreads
from strategies.virtual_features import trained_on

DIM = 5


def samples(num_samples: int = 200) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return features of three classes, each with a covariance of its own, and of a fourth class nothing."""
    draw = np.random.default_rng(8)
    classes = draw.integers(0, 3, num_samples)
    turned = np.stack([draw.standard_normal((DIM, DIM)) for _ in range(3)])
    features = np.einsum("nde,ne->nd", turned[classes], draw.standard_normal((num_samples, DIM)))
    return features + 3 * np.eye(3, DIM)[classes], classes


@pytest.mark.parametrize("covariance", MOMENTS)
def test_spread_is_that_of_the_pooled_samples(covariance: str) -> None:
    """NumPy's unbiased covariance of each class; of all about their own means, divided by n - C, if it is shared."""
    features, classes = samples()
    sums = statistics_sums(features, classes, np.arange(200), "classes", 4, MOMENTS[covariance])
    found = list(spreads(sums, covariance))
    assert len(found) == 3
    own = [np.cov(features[classes == number].T) for number in range(3)]
    sizes = np.bincount(classes)
    shared = sum((size - 1) * matrix for size, matrix in zip(sizes, own, strict=True)) / (200 - 3)
    for number, root in enumerate(found):
        if covariance == "diagonal":
            np.testing.assert_allclose(np.square(root), np.diag(own[number]), rtol=1e-5)
        else:
            expected = own[number] if covariance == "full" else shared
            np.testing.assert_allclose(root @ root.T, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_any_division_among_clients_gives_the_same_gaussians(num_clients: int, seed: int) -> None:
    features, classes = samples(60)
    owners = np.random.default_rng(seed).integers(0, num_clients, 60)
    whole = statistics_sums(features, classes, np.arange(60), "classes", 4, "per_class")
    parts = [
        statistics_sums(features, classes, np.flatnonzero(owners == k), "classes", 4, "per_class")
        for k in range(num_clients)
    ]
    added = {name: sum(part[name] for part in parts) for name in whole}
    for one, other in zip(spreads(added, "full"), spreads(whole, "full"), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("bias", [True, False])
def test_training_comes_to_scikit_learn_s_head(bias: bool) -> None:
    """Softmax regression with a penalty on the weights of standardised features, from any start."""
    from sklearn.linear_model import LogisticRegression

    features, classes = samples()
    centre = features.mean(axis=0) if bias else 0.0
    scale = np.sqrt(np.square(features - centre).mean(axis=0))
    oracle = LogisticRegression(C=1 / (0.05 * len(classes)), fit_intercept=bias, tol=1e-10, max_iter=5000)
    expected = oracle.fit((features - centre) / scale, classes).predict_proba((features - centre) / scale)
    draw = np.random.default_rng(1)
    head = {"weight": draw.standard_normal((3, DIM)), **({"bias": draw.standard_normal(3)} if bias else {})}
    found = trained_on(head, features.astype(np.float32), classes, 2000, 0.05)
    assert set(found) == set(head)
    outputs = features @ found["weight"].T + found.get("bias", 0.0)
    probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)


def test_class_that_nobody_has_never_wins() -> None:
    features, classes = samples()
    sums = statistics_sums(features, classes, np.arange(200), "classes", 4, "shared")
    head = {"weight": np.zeros((4, DIM), dtype=np.float32), "bias": np.zeros(4, dtype=np.float32)}
    made = CCVR().aggregate({}, head, (Replies({}, {}, 1, statistics=sums, num_samples=200),)).head
    found = (features @ made["weight"].T + made["bias"]).argmax(axis=1)
    assert 3 not in found
    assert (found == classes).mean() > 0.7


def test_class_of_one_sample_is_drawn_without_spread() -> None:
    features, classes = np.array([[1.0, 2.0], [5.0, 1.0], [6.0, 3.0]]), np.array([0, 1, 1])
    for covariance, moment in (("full", "per_class"), ("diagonal", "diagonal")):
        sums = statistics_sums(features, classes, np.arange(3), "classes", 2, moment)
        assert not next(iter(spreads(sums, covariance))).any()


def test_too_many_draws_are_refused() -> None:
    features, classes = samples()
    sums = statistics_sums(features, classes, np.arange(200), "classes", 4, "shared")
    many = {name: np.tile(value, (2000, 1)) if name == "class_sum" else value for name, value in sums.items()}
    many["class_count"] = np.tile(sums["class_count"], 2000)
    head = {"weight": np.zeros((8000, DIM)), "bias": np.zeros(8000)}
    with pytest.raises(ValueError, match=r"600,000,000 virtual samples of 5 features are .* draw fewer"):
        CCVR(samples_per_class=100_000).aggregate({}, head, (Replies({}, {}, 1, statistics=many),))


@pytest.mark.parametrize("covariance", MOMENTS)
def test_calibrates_the_head_of_another_strategy(covariance: str, tmp_path: Path) -> None:
    """The rounds are those of the run without it; then the head moves, and what is kept is the calibrated one."""
    plain = fedgraft.run(small(), out=tmp_path / "plain")
    calibrated = fedgraft.run(small(calibrate={"name": "ccvr", "covariance": covariance}), out=tmp_path / "calibrated")
    rows = {run: [row for row in run.metrics if row["group"] == "central"] for run in (plain, calibrated)}
    for one, other in zip(rows[plain], rows[calibrated], strict=True):
        assert one["loss"] == other["loss"]
    last = next(row for row in calibrated.metrics if row["group"] == "calibrated")
    assert last["round"] == 4
    assert last["accuracy"] == calibrated.summary["central"]["accuracy"] > 0.5
    assert np.abs(calibrated.head["weight"] - plain.head["weight"]).max() > 1e-3
    alone = fedgraft.run(small(strategy={"name": "ccvr", "covariance": covariance, "steps": 3000}), out=tmp_path / "a")
    longer = fedgraft.run(
        small(calibrate={"name": "ccvr", "covariance": covariance, "steps": 3000}), out=tmp_path / "b"
    )
    np.testing.assert_allclose(longer.head["weight"], alone.head["weight"], atol=5e-3)  # convex: whatever the start


def test_killed_between_the_last_round_and_calibration(tmp_path: Path) -> None:
    """Going on from the last checkpoint calibrates the head of the last round, once."""
    scenario = small(calibrate="ccvr")
    whole = fedgraft.run(scenario, out=tmp_path / "run")
    head, rows = whole.head, calibration_of(whole)
    for name in ("summary.json", "head.safetensors"):
        (tmp_path / "run" / name).unlink()
    again = fedgraft.run(scenario, out=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(again.head["weight"], head["weight"])
    assert calibration_of(again) == rows


def calibration_of(run: fedgraft.Run) -> list[dict[str, Any]]:
    """Return what the run says of its calibration, but for what no two runs share: the seconds, and so the bytes."""
    of_the_kind = [row for row in run.metrics if row["group"].startswith("calibrate")]
    return [{name: row[name] for name in row if name not in ("seconds", "bytes_up")} for row in of_the_kind]


@pytest.mark.parametrize(("covariance", "size"), [("full", 4 * 36), ("shared", 36), ("diagonal", 24)])
def test_check_forecasts_bytes(covariance: str, size: int, tmp_path: Path) -> None:
    """Counts of 4 classes, sums of 4 by 6, and the second moment, 8 bytes a number; 128 of header an array."""
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(changed(SMALL, {"strategy": {"name": "ccvr", "covariance": covariance}})))
    answer = CliRunner().invoke(app, ["check", str(path)])
    assert answer.exit_code == 0, answer.output
    assert f"ccvr: {8 * (4 + 24 + size) + 3 * 128:,} bytes from each shard of a host" in answer.output


def test_calibration_that_can_t_be(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"head: came mlp, but calibrate ccvr makes a linear head"):
        fedgraft.run(small(calibrate="ccvr", head="mlp"), out=tmp_path / "run")
    block = changed(SMALL, {"calibrate": "ccvr", "data.source.task": "real", "data.partition.name": "iid"})
    del block["data"]["partition"]["alpha"]
    with pytest.raises(ScenarioError, match=r"calibrate: ccvr serves classes; the data's targets are real"):
        fedgraft.run(Scenario.model_validate_json(json.dumps(block)), out=tmp_path / "run")


def test_no_samples() -> None:
    empty: dict[str, Any] = {
        "class_count": np.zeros(2),
        "class_sum": np.zeros((2, 3)),
        "second_moment": np.zeros((3, 3)),
    }
    with pytest.raises(ValueError, match=r"no client has training samples"):
        CCVR().aggregate({}, {"weight": np.zeros((2, 3))}, (Replies({}, {}, 0, statistics=empty),))
