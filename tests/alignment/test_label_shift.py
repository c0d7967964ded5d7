"""Label priors from a head's answers: by hand, on exact shifts whose weights are known, and in whole runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_scenarios import small

import fedgraft
from fedgraft.errors import ScenarioError
from fedgraft.label_shift import SMALLEST_WEIGHT, condition, label_weights
from fedgraft.workspace import Workspace


def test_two_classes_by_hand() -> None:
    """Of 50 and 50 samples 40 and 45 are right: C = [[.4, .05], [.1, .45]].

    Answers 60 to 40 give, by Cramer's rule,
    w = (.6 * .45 - .05 * .4, .4 * .4 - .1 * .6) / (.4 * .45 - .05 * .1) = (.25, .1) / .175.
    """
    weights = label_weights(np.array([[40, 10], [5, 45]]), np.array([60, 40]))
    np.testing.assert_allclose(weights, [0.25 / 0.175, 0.1 / 0.175], rtol=1e-12)


def test_three_classes_by_hand() -> None:
    """A head that confuses the last two only: the first weight is its share of answers over a third."""
    confusion = np.array([[30, 0, 0], [0, 20, 10], [0, 10, 20]])
    weights = label_weights(confusion, np.array([60, 20, 20]))
    np.testing.assert_allclose(weights, [1.8, 0.6, 0.6], rtol=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 6))
def test_an_exact_shift_is_found(seed: int, num_classes: int) -> None:
    """Where answers depend on the label alone, the same way before and after, weights are q / p exactly."""
    generator = np.random.default_rng(seed)
    given_label = generator.dirichlet(np.ones(num_classes), num_classes) + 2 * np.eye(num_classes)
    given_label /= given_label.sum(axis=1, keepdims=True)
    prior, shifted = (generator.dirichlet(5 * np.ones(num_classes)) + 0.01 for _ in range(2))
    prior, shifted = prior / prior.sum(), shifted / shifted.sum()
    found = label_weights(1e6 * prior[:, None] * given_label, 1e6 * shifted @ given_label)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, np.maximum(shifted / prior, SMALLEST_WEIGHT), rtol=1e-8)


def test_no_shift_changes_nothing_and_no_answers_neither() -> None:
    confusion = np.array([[40, 10], [5, 45]])
    np.testing.assert_allclose(label_weights(confusion, np.array([45, 55])), 1.0, rtol=1e-12)
    assert label_weights(confusion, np.array([0, 0])).tolist() == [1.0, 1.0]


def test_a_class_that_is_not_there_is_not_ruled_out() -> None:
    weights = label_weights(np.array([[40, 10], [5, 45]]), np.array([0, 100]))
    assert weights[0] == SMALLEST_WEIGHT
    assert weights[1] > 1


def test_a_penalty_pulls_towards_one() -> None:
    """With a penalty p the weights minimise |C w - mu|^2 + p^2 |w - 1|^2: compared with NumPy's least squares."""
    confusion, answers = np.array([[40, 10], [5, 45]]), np.array([60, 40])
    system = np.concatenate([confusion.T / 100, 0.3 * np.eye(2)])
    wanted = np.linalg.lstsq(system, np.array([0.6, 0.4, 0.3, 0.3]), rcond=None)[0]
    np.testing.assert_allclose(label_weights(confusion, answers, 0.3), wanted, rtol=1e-10)


def test_matrices_that_can_not_be_solved() -> None:
    """A class without samples, or a head that answers without looking."""
    blind = np.array([[30, 20], [30, 20]])
    assert condition(blind) == float("inf")
    with pytest.raises(ValueError, match="can't tell the classes apart"):
        label_weights(blind, np.array([50, 50]))
    assert np.isfinite(label_weights(blind, np.array([10, 90]), 0.01)).all()
    with pytest.raises(ValueError, match="are all 0"):
        condition(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"no confusion matrix: shape \(2, 3\)"):
        condition(np.zeros((2, 3)))


def corrected_by_numpy(run: fedgraft.Run, penalty: float) -> tuple[dict[str, float], float, float]:
    """Return each client's corrected score, that of all, and the test part's, from the run's head and its data."""
    scenario = run.scenario
    work = Workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    federation, targets = work.federation, work.federation.samples.targets
    logits = work.features @ run.head["weight"].T + run.head["bias"]
    answers, num = logits.argmax(axis=1), run.head["weight"].shape[0]
    seen = federation.validation.indices
    matrix = np.zeros((num, num))
    np.add.at(matrix, (answers[seen], targets[seen]), 1 / len(seen))

    def right(known: Any, rows: Any) -> Any:
        mu = np.bincount(answers[known], minlength=num) / len(known)
        theta = np.linalg.lstsq(
            np.concatenate([matrix, penalty * np.eye(num)]), np.concatenate([mu - matrix.sum(axis=1), np.zeros(num)])
        )[0]
        odds = np.exp(logits[rows]) * np.maximum(1 + theta, SMALLEST_WEIGHT)
        return odds.argmax(axis=1) == targets[rows]

    parts = {
        name: right(federation.validation.of(k), federation.validation.of(k))
        for k, name in enumerate(federation.client_names)
        if len(federation.validation.of(k))
    }
    scores = {name: float(part.mean()) for name, part in parts.items()}
    return (
        scores,
        float(np.concatenate(list(parts.values())).mean()),
        float(right(federation.test, federation.test).mean()),
    )


def test_a_run_says_what_other_priors_give(tmp_path: Path) -> None:
    """Uneven clients, several shards; the oracle is NumPy on the pooled arrays."""
    scenario = small(**{"shards": 2, "evaluation.label_shift": {"penalty": 0.05}, "data.source.num_samples": 900})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    clients, whole, central = corrected_by_numpy(run, 0.05)
    found = run.summary["label_shift"]
    assert found["validation"]["accuracy"] == pytest.approx(whole, abs=1e-12)
    assert found["central"]["accuracy"] == pytest.approx(central, abs=1e-12)
    with (run.directory / "label_shift.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["client"]: float(row["score_corrected"]) for row in rows} == pytest.approx(clients, abs=1e-6)
    assert whole > run.summary["validation"]["accuracy"]  # clients are Dirichlet 0.5: priors differ much
    assert "label priors corrected" in (run.directory / "summary.txt").read_text()
    plain = fedgraft.run(small(shards=2, **{"data.source.num_samples": 900}), out=tmp_path / "plain")
    for name, value in plain.head.items():
        assert (run.head[name] == value).all()
    assert run.summary["validation"] == plain.summary["validation"]


def test_an_ill_conditioned_matrix_corrects_nothing(tmp_path: Path) -> None:
    scenario = small(**{"server.rounds": 1, "evaluation.label_shift": {"largest_condition": 1.0}})
    notes: list[str] = []
    run = fedgraft.run(
        scenario,
        out=tmp_path / "run",
        on_event=lambda event: notes.append(str(event.get("text"))) if event["kind"] == "note" else None,
    )
    assert any("set evaluation.label_shift.penalty, such as 0.01" in note for note in notes)
    assert "refused" in json.loads((run.directory / "summary.json").read_text())["label_shift"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"data.source.num_classes": 201, "data.source.num_samples": 900},
            "a confusion matrix, which is kept up to 200 classes; there are 201; set it to null",
        ),
        ({"data.validation_fraction": 0.0}, "there are none; raise data.validation_fraction"),
    ],
    ids=["many classes", "no validation samples"],
)
def test_where_nothing_tells_the_priors(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=f"evaluation.label_shift: needs .*{text}"):
        fedgraft.run(small(**{"evaluation.label_shift": {}, **changes}), out=tmp_path / "run")


def test_a_head_that_knows_its_training_samples_by_heart_is_not_asked_about_them(tmp_path: Path) -> None:
    """One client, so that its answers are those of the matrix: by C w = C 1 all weights are 1, and nothing changes.

    Told by the training part, on which an over-fitted head answers otherwise, they would differ.
    """
    train = {"local_epochs": 60, "batch_size": 10, "optimizer": {"name": "sgd", "learning_rate": 1.0}}
    data = {"data.partition": {"name": "iid", "clients": 1}, "data.source.num_samples": 200}
    scenario = small(**{"train": train, "evaluation.label_shift": {"penalty": 0.01}, **data})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    found, plain = run.summary["label_shift"]["validation"], run.summary["validation"]
    assert found["loss"] == pytest.approx(plain["loss"], rel=1e-6)
    assert found["accuracy"] == plain["accuracy"]


def test_real_targets_have_no_priors(tmp_path: Path) -> None:
    scenario = small(
        **{"data.source.task": "real", "evaluation.label_shift": {}, "data.partition": {"name": "iid", "clients": 3}}
    )
    with pytest.raises(ScenarioError, match=r"evaluation.label_shift: needs one class a sample.*targets are real"):
        fedgraft.run(scenario, out=tmp_path / "run")
