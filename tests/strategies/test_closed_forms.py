"""Closed-form heads through whole runs, against scikit-learn on all training samples in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scenarios import small

import fedgraft
from fedgraft.errors import FedGraftError, ScenarioError
from fedgraft.workspace import open_workspace
from scenarios.schema import Scenario
from strategies.base import Replies
from strategies.lda import LinearDiscriminant
from strategies.ncm import NearestClassMean
from strategies.registry import STRATEGIES
from strategies.ridge import Ridge

CLOSED = sorted(name for name, strategy in STRATEGIES.items() if strategy.most_rounds == 1)
STARTS = [name for name in CLOSED if name != "personal-ridge"]
"""Those that `init` takes; personal ridge is the global head of `ridge` beside heads that stay with clients."""
TARGETS: dict[str, dict[str, Any]] = {
    task: {"data.source.task": task, "data.source.num_targets": 2, "data.partition": {"name": "iid", "clients": 9}}
    for task in ("classes", "labels", "real")
}


def pooled(scenario: Scenario) -> tuple[np.ndarray, np.ndarray]:
    """Return features and targets of all clients' training parts."""
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    rows = workspace.federation.train.indices
    return workspace.features[rows].astype(np.float64), workspace.federation.samples.targets[rows]


def outputs(head: Any, features: np.ndarray) -> np.ndarray:
    return features @ head["weight"].T.astype(np.float64) + head["bias"]


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("shards", [1, 3])
def test_ridge_is_scikit_learn_s_on_all_samples(task: str, shards: int, tmp_path: Path) -> None:
    """Labels are coded -1 and 1; a temperature only scales what is not a real number."""
    from sklearn.linear_model import Ridge as Pooled

    scenario = small(**TARGETS[task], shards=shards, strategy={"name": "ridge", "penalty": 3.0, "temperature": 0.5})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, targets = pooled(scenario)
    answers = np.eye(4)[targets] if task == "classes" else 2.0 * targets - 1 if task == "labels" else targets
    expected = Pooled(alpha=3.0).fit(features, answers).predict(features) / (1 if task == "real" else 0.5)
    np.testing.assert_allclose(outputs(run.head, features), expected.reshape(len(features), -1), rtol=0, atol=2e-5)


def test_penalty_is_chosen_by_leaving_each_client_out(tmp_path: Path) -> None:
    """The same choice as by training without each client in turn, in one place."""
    from sklearn.linear_model import Ridge as Pooled

    factors = (1e-3, 1e-1, 10.0)
    scenario = small(strategy={"name": "ridge", "relative_penalties": list(factors)})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, targets = pooled(scenario)
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    owners = workspace.federation.train.owners
    mean = np.square(features).sum() / features.shape[1]
    right = [
        sum(
            (Pooled(alpha=factor * mean).fit(features[owners != k], np.eye(4)[targets[owners != k]])
             .predict(features[owners == k]).argmax(axis=1) == targets[owners == k]).sum()
            for k in np.unique(owners)
        )
        for factor in factors
    ]  # fmt: skip
    row = next(row for row in run.metrics if row["group"] == "train")
    best = max(factor for factor, number in zip(factors, right, strict=True) if number == max(right))
    assert row["penalty"] == pytest.approx(best * mean)
    assert row["left_out_score"] == pytest.approx(max(right) / len(features))


def test_lda_is_scikit_learn_s(tmp_path: Path) -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    scenario = small(strategy={"name": "lda", "shrinkage": 0.3})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, targets = pooled(scenario)
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3).fit(features, targets)
    np.testing.assert_allclose(outputs(run.head, features), expected.decision_function(features), rtol=0, atol=1e-4)


def test_nearest_class_mean_is_scikit_learn_s(tmp_path: Path) -> None:
    from sklearn.neighbors import NearestCentroid

    scenario = small(strategy={"name": "ncm", "temperature": 2.0})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, targets = pooled(scenario)
    expected = NearestCentroid().fit(features, targets).predict(features)
    np.testing.assert_array_equal(outputs(run.head, features).argmax(axis=1), expected)


def test_cosine_head_gets_the_means_as_directions(tmp_path: Path) -> None:
    scenario = small(strategy="ncm", head={"name": "cosine", "scale": 5.0})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, targets = pooled(scenario)
    means = np.array([features[targets == number].mean(axis=0) for number in range(4)])
    np.testing.assert_allclose(run.head["weight"], means, atol=1e-6)
    assert run.head["scale"].tolist() == [5.0]


STATISTICS = {
    "class_count": np.array([4.0, 0.0, 4.0]),
    "class_sum": np.array([[8.0, 0.0], [0.0, 0.0], [-8.0, 0.0]]),
    "second_moment": np.array([[40.0, 0.0], [0.0, 8.0]]),
}
"""Two classes around (2, 0) and (-2, 0); nobody has the class between them."""


@pytest.mark.parametrize("strategy", [NearestClassMean(), LinearDiscriminant()], ids=lambda value: value.title)
def test_class_that_nobody_has_never_wins(strategy: Any) -> None:
    """Not even where the two others are equally near, and its probability stays a number."""
    head = {"weight": np.zeros((3, 2), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)}
    made = strategy.aggregate({}, head, (Replies({}, {}, 2, statistics=STATISTICS, num_samples=8),)).head
    points = np.random.default_rng(0).standard_normal((500, 2)) * 20
    found = outputs(made, np.vstack([points, np.zeros((1, 2))]))
    assert set(found.argmax(axis=1)) == {0, 2}
    assert np.isfinite(found).all()
    assert (found.max(axis=1) - found[:, 1] >= 9.99).all()


@pytest.mark.parametrize("name", CLOSED)
def test_one_round_is_enough(name: str, tmp_path: Path) -> None:
    """However many the scenario says; and all clients are asked, however few it draws for a round."""
    run = fedgraft.run(small(strategy=name, **{"server.clients_per_round": 3}), out=tmp_path / "run")
    rounds = [row for row in run.metrics if row["group"] == "train"]
    assert [(row["round"], row["num_clients"]) for row in rounds] == [(1, 9)]
    central = [row["accuracy"] for row in run.metrics if row["group"] == "central"]
    assert central[-1] > 0.6 > central[0]


@pytest.mark.parametrize("name", STARTS)
def test_training_goes_on_from_a_closed_form(name: str, tmp_path: Path) -> None:
    """The head before round 1 is the closed form's own, and resuming does not ask for it again."""
    alone = fedgraft.run(small(strategy=name), out=tmp_path / "alone")
    scenario = small(init=name)
    started = fedgraft.run(scenario, out=tmp_path / "started")
    after = [row["accuracy"] for row in alone.metrics if row["group"] == "central"]
    first = [row for row in started.metrics if row["group"] == "central" and row["round"] == 0]
    assert first[0]["accuracy"] == after[-1]
    begun = [row for row in started.metrics if row["group"] == "init"]
    assert [(row["round"], row["strategy"]) for row in begun] == [(0, name)]
    zeros = fedgraft.run(small(), out=tmp_path / "zeros")
    losses = [[row["loss"] for row in run.metrics if row["group"] == "central"] for run in (started, zeros)]
    assert losses[0][1] < losses[1][1]


def test_head_that_a_closed_form_can_t_make(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"head: came mlp, but strategy ridge makes a linear head"):
        fedgraft.run(small(strategy="ridge", head="mlp"), out=tmp_path / "run")
    with pytest.raises(ScenarioError, match=r"head: came cosine, but init lda makes a linear head"):
        fedgraft.run(small(init="lda", head="cosine"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ncm", "lda"])
def test_targets_that_a_strategy_can_t_serve(name: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=rf"strategy: {name} serves classes; the data's targets are real"):
        fedgraft.run(small(**TARGETS["real"], strategy=name), out=tmp_path / "run")


@pytest.mark.parametrize("name", ["ncm", "lda"])
def test_head_without_a_bias(name: str, tmp_path: Path) -> None:
    with pytest.raises(FedGraftError, match=r"needs a bias"):
        fedgraft.run(small(strategy=name, head={"name": "linear", "bias": False}), out=tmp_path / "run")


def test_ridge_without_a_bias_goes_through_the_origin(tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge as Pooled

    head = {"name": "linear", "bias": False}
    scenario = small(strategy={"name": "ridge", "penalty": 1.0, "temperature": 1.0}, head=head)
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, targets = pooled(scenario)
    expected = Pooled(alpha=1.0, fit_intercept=False).fit(features, np.eye(4)[targets])
    np.testing.assert_allclose(run.head["weight"], expected.coef_, atol=1e-5)


def test_penalty_below_the_sums_rounding_is_refused() -> None:
    head = {"weight": np.zeros((3, 2), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)}
    replies = Replies({}, {}, 2, statistics=STATISTICS, num_samples=8)
    with pytest.raises(ValueError, match=r"lambda came as 1e-300"):
        Ridge(penalty=1e-300).aggregate({}, head, (replies,))
