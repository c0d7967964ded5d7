"""Pseudo-labels: by hand, against scikit-learn's self-training, and against a loop written from the papers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.semi_supervised import SelfTrainingClassifier
from small_scenarios import relative_difference, small

import fedgraft
from clients.host import Host
from clients.pseudo_labels import sure
from clients.settings import ClientPart
from clients.site.cohort import cohort_of
from fedgraft.errors import FedGraftError, WireError
from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.wire.requests import MomentsRequest, StatisticsRequest
from fedgraft.workspace import Workspace, open_workspace
from scenarios.schema import Scenario
from server.pseudo_labels import check_counts, with_labelled
from server.roster import Roster

FEW = {"data.unlabelled": 0.7, "evaluation.central": True}
"""Of 205 training samples about 60 keep their labels."""


def opened(scenario: Scenario) -> Workspace:
    return open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)


def parts(scenario: Scenario) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features and classes of all training samples with labels, and of those without."""
    workspace = opened(scenario)
    federation, features = workspace.federation, workspace.features.astype(np.float64)
    labelled, hidden = federation.train.indices, federation.unlabelled.indices
    targets = federation.samples.targets
    return features[labelled], targets[labelled], features[hidden], targets[hidden]


def softmax(outputs: np.ndarray) -> np.ndarray:
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def rows_of(run: fedgraft.Run) -> list[dict[str, Any]]:
    return [row for row in run.metrics if row["group"] == "pseudo_labels"]


def test_who_is_sure_enough() -> None:
    """Client 0: of three 1s above 0.8 the two most probable; of 2s the one; client 1 has a list of its own."""
    owners = np.array([0, 0, 0, 0, 0, 1, 1])
    classes = np.array([1, 1, 2, 1, 2, 1, 1])
    confidence = np.array([0.8, 0.95, 0.9, 0.85, 0.79, 0.8, 0.99])
    both = PseudoLabelSettings(threshold=0.8, most_per_class=2)
    assert sure(owners, classes, confidence, both).tolist() == [False, True, True, True, False, True, True]
    one = PseudoLabelSettings(threshold=0.8, most_per_class=1)
    assert sure(owners, classes, confidence, one).tolist() == [False, True, True, False, False, False, True]
    every = PseudoLabelSettings(threshold=0.8)
    assert sure(owners, classes, confidence, every).tolist() == [True, True, True, True, False, True, True]


def test_equal_confidence_goes_by_the_order_of_samples() -> None:
    settings = PseudoLabelSettings(threshold=0.5, most_per_class=2)
    assert sure(np.zeros(4, int), np.ones(4, int), np.full(4, 0.9), settings).tolist() == [True, True, False, False]


@pytest.mark.parametrize("shards", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_self_training_of_ridge_in_closed_form(shards: int, tmp_path: Path) -> None:
    """Each round: label by the head before, fit on what is labelled (Lee, 2013), in one place by scikit-learn."""
    settings = {"name": "ridge", "penalty": 3.0, "temperature": 0.2}
    scenario = small(**FEW, strategy=settings, pseudo_labels={"threshold": 0.9}, shards=shards, **{"server.rounds": 4})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, classes, hidden, truth = parts(scenario)

    def fitted(rows: np.ndarray, answers: np.ndarray) -> Ridge:
        return Ridge(alpha=3.0).fit(rows, np.eye(4)[answers] / 0.2)

    head, told = fitted(features, classes), []
    for _ in range(3):
        probabilities = softmax(head.predict(hidden))
        chosen, labels = probabilities.max(axis=1) >= 0.9, probabilities.argmax(axis=1)
        told.append((int(chosen.sum()), float((labels == truth)[chosen].mean())))
        head = fitted(np.vstack([features, hidden[chosen]]), np.concatenate([classes, labels[chosen]]))
    assert 0 < told[0][0] < told[-1][0] < len(hidden)  # the loop does something, and goes on doing it
    assert [(row["round"], row["labelled"]) for row in rows_of(run)] == [
        (2 + n, count) for n, (count, _) in enumerate(told)
    ]
    assert [row["accuracy"] for row in rows_of(run)] == pytest.approx([right for _, right in told])
    assert relative_difference(run.head["weight"], head.coef_) < 1e-4
    assert relative_difference(run.head["bias"], head.intercept_) < 1e-4


def test_one_step_of_self_training_is_scikit_learn_s(tmp_path: Path) -> None:
    """`SelfTrainingClassifier` never takes a label back, so that its first step is what both have."""
    scenario = small(
        **FEW, strategy={"name": "lda", "shrinkage": 0.3}, pseudo_labels={"threshold": 0.9}, **{"server.rounds": 2}
    )
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, classes, hidden, _ = parts(scenario)
    theirs = SelfTrainingClassifier(
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.3), threshold=0.9, max_iter=1
    ).fit(np.vstack([features, hidden]), np.concatenate([classes, np.full(len(hidden), -1)]))
    (row,) = rows_of(run)
    assert row["labelled"] == (theirs.labeled_iter_ == 1).sum() > 20
    assert row["unlabelled"] == len(hidden)
    everything = np.vstack([features, hidden])
    outputs = everything @ run.head["weight"].T + run.head["bias"]
    np.testing.assert_allclose(softmax(outputs), theirs.predict_proba(everything), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("form", "most"), [("dual", None), ("primal", 2), pytest.param("loop", 2, marks=pytest.mark.slow)]
)
def test_a_round_of_federated_training(form: str, most: int | None, tmp_path: Path) -> None:
    """One full-batch step a client and round: the mean weighted by samples is one step on all of them together."""
    scenario = small(
        **FEW,
        train={"local_epochs": 1, "batch_size": 400, "optimizer": {"name": "sgd", "learning_rate": 1.0}, "form": form},
        pseudo_labels={"threshold": 0.6, "most_per_class": most},
        **{"server.rounds": 6},
    )
    run = fedgraft.run(scenario, out=tmp_path / "run")
    features, classes, hidden, _ = parts(scenario)
    owners = opened(scenario).federation.unlabelled.owners
    weight, bias, told = np.zeros((4, 6)), np.zeros(4), []
    for number in range(6):
        chosen = np.zeros(len(hidden), dtype=bool)
        probabilities = softmax(hidden @ weight.T + bias)
        labels, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        for owner, label in {(o, c) for o, c in zip(owners, labels, strict=True)} if number else ():
            own = np.flatnonzero((owners == owner) & (labels == label) & (confidence >= 0.6))
            chosen[own[np.argsort(-confidence[own], kind="stable")][:most]] = True
        told.append(int(chosen.sum()))
        rows, answers = np.vstack([features, hidden[chosen]]), np.concatenate([classes, labels[chosen]])
        error = softmax(rows @ weight.T + bias) - np.eye(4)[answers]
        weight, bias = weight - error.T @ rows / len(rows), bias - error.mean(axis=0)
    assert [row["labelled"] for row in rows_of(run)] == told[1:]
    assert told[-1] > 20
    assert relative_difference(run.head["weight"], weight) < 1e-5
    assert relative_difference(run.head["bias"], bias) < 1e-5


@pytest.mark.parametrize("form", ["primal", pytest.param("loop", marks=pytest.mark.slow)])
def test_all_forms_take_the_same_steps(form: str, tmp_path: Path) -> None:
    """Small batches, momentum, some of the clients a round, several shards."""
    changes: dict[str, Any] = {
        **FEW,
        "train.optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.5},
        "pseudo_labels": {"threshold": 0.7},
        "init": "ridge",
        "server.clients_per_round": 5,
        "shards": 2,
    }
    one = fedgraft.run(small(**changes, **{"train.form": "dual"}), out=tmp_path / "one")
    other = fedgraft.run(small(**changes, **{"train.form": form}), out=tmp_path / "other")
    assert [row["round"] for row in rows_of(one)] == [1, 2, 3, 4]  # `init` makes a head that can label in round 1
    assert rows_of(one) == rows_of(other)
    assert relative_difference(one.head["weight"], other.head["weight"]) < 1e-5


def test_labels_that_must_not_be_used_are_not(tmp_path: Path) -> None:
    """Whatever a named client's labels are, and where there are none: the same bits; only what is told differs."""
    rng = np.random.default_rng(7)
    classes = np.arange(120) % 3
    features = (rng.normal(size=(120, 5)) + 2 * np.eye(3, 5)[classes]).astype(np.float32)
    client = np.where(np.arange(120) < 40, "a", np.where(np.arange(120) < 80, "b", "c"))
    heads, told = [], []
    for case in ("true", "wrong", "none"):
        labels = classes.copy()
        if case != "true":
            labels[client == "b"] = -1 if case == "none" else (labels[client == "b"] + 1) % 3
        np.savez(
            tmp_path / f"{case}.npz", features=features, labels=labels, client=client, is_test=np.arange(120) > 114
        )
        scenario = small(
            **{
                "data.source": {"name": "arrays", "path": str(tmp_path / f"{case}.npz")},
                "data.partition": {"name": "natural"},
                "data.unlabelled": None if case == "none" else ["b"],
                "data.validation_fraction": 0,
                "pseudo_labels": {"threshold": 0.6},
            }
        )
        run = fedgraft.run(scenario, out=tmp_path / case)
        heads.append(run.head["weight"])
        told.append(rows_of(run)[-1])
    np.testing.assert_array_equal(heads[0], heads[1])
    np.testing.assert_array_equal(heads[0], heads[2])
    assert told[0]["labelled"] == told[1]["labelled"] == told[2]["labelled"] > 10
    assert told[0]["accuracy"] > 0.5 > told[1]["accuracy"]
    assert "accuracy" not in told[2]


def test_stages_label_by_the_head_of_the_stage_before(tmp_path: Path) -> None:
    ridge = {"name": "ridge", "penalty": 3.0}
    rounds = small(**FEW, strategy=ridge, pseudo_labels={}, **{"server.rounds": 2})
    staged = small(
        **FEW,
        stages=[
            {"name": "labelled", "strategy": ridge},
            {"name": "refined", "strategy": ridge, "pseudo_labels": {}, "server": {"rounds": 1, "checkpoint_every": 2}},
        ],
    )
    one = fedgraft.run(rounds, out=tmp_path / "rounds")
    other = fedgraft.run(staged, out=tmp_path / "staged")
    np.testing.assert_array_equal(one.head["weight"], other.head["weight"])
    summary = json.loads((tmp_path / "staged" / "summary.json").read_text())
    assert summary["num_unlabelled"] == len(parts(staged)[2])
    assert summary["pseudo_labels"]["round"] == 2
    assert "pseudo-labelled" in (tmp_path / "staged" / "summary.txt").read_text()


def test_going_on_after_an_interruption_has_the_same_bits(tmp_path: Path) -> None:
    changes: dict[str, Any] = {**FEW, "pseudo_labels": {"threshold": 0.5}, "server.checkpoint_every": 1}
    whole = fedgraft.run(small(**changes), out=tmp_path / "whole")

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "round" and event["number"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fedgraft.run(small(**changes), out=tmp_path / "again", on_event=stop)
    again = fedgraft.run(small(**changes), out=tmp_path / "again", resume=True)
    np.testing.assert_array_equal(whole.head["weight"], again.head["weight"])
    assert rows_of(whole) == rows_of(again)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"pseudo_labels": {}}, "every training sample has a label; set data.unlabelled"),
        ({**FEW, "pseudo_labels": {}, "loss": "squared"}, "needs one class a sample and the softmax loss"),
    ],
)
def test_what_the_data_can_not_have_is_refused(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(FedGraftError) as caught:
        fedgraft.run(small(**changes), out=tmp_path / "run")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"strategy": "scaffold"}, "came scaffold, whose clients keep what belongs to their samples"),
        ({"strategy": "ditto"}, "whose clients keep what belongs to their samples, and pseudo_labels change these"),
        ({"strategy": "ridge", "evaluation.contribution": True}, "came with evaluation.contribution, but labels come"),
        ({"data.tasks": 2}, "came with data.tasks, but clients are given their tasks by labels"),
    ],
)
def test_what_does_not_go_with_pseudo_labels_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match="came") as caught:
        small(pseudo_labels={}, **changes)
    assert text in str(caught.value)


def test_a_site_counts_a_sample_that_changes_its_label_as_another(tmp_path: Path) -> None:
    """So that the difference of two answers is never of a sample or two; and moments are of all training samples."""
    scenario = small(**FEW, pseudo_labels={"threshold": 0.3})
    members = Host(ClientPart.model_validate_json(scenario.model_dump_json()), 0, 1).members
    groups = {"clients": {"index": np.arange(9)}}
    digest = members.own_digests()[0]
    about: dict[str, Any] = {"run_id": "r", "weights_digest": digest, "shard": 0}
    federation = members.workspace.federation
    assert len(cohort_of(members, MomentsRequest(**about), groups).samples) == len(federation.all_train.indices)
    assert len(cohort_of(members, StatisticsRequest(**about), groups).samples) == len(federation.train.indices)
    found = []
    for favoured in (1, 2):  # a head that is sure of one class
        head = {"weight": np.zeros((4, 6), np.float32), "bias": np.eye(4, dtype=np.float32)[favoured]}
        request = StatisticsRequest(**about, pseudo_labels=PseudoLabelSettings(threshold=0.3))
        cohort = cohort_of(members, request, {**groups, "labeller": head})
        assert cohort.class_counts is not None
        assert cohort.class_counts[favoured] > len(federation.unlabelled.indices)
        found.append(cohort.samples)
    assert len(np.intersect1d(*found)) == len(federation.train.indices)


def test_replies_that_can_not_be_are_refused() -> None:
    roster = Roster(
        names=("a", "b"),
        nodes=np.array([1, 1], dtype=np.uint64),
        positions=np.arange(2),
        shards=np.zeros(2, dtype=np.int64),
        num_train=np.array([3, 4]),
        num_validation=np.zeros(2, dtype=np.int64),
        descriptions={},
        num_unlabelled=np.array([5, 0]),
    )
    calls = roster.calls(np.arange(2))
    good = {"count": np.array([4, 0]), "known": np.array([4, 0]), "right": np.array([3, 0])}
    check_counts(calls, [good], roster)
    assert with_labelled(roster, calls, [good]).num_train.tolist() == [7, 4]
    for name, values in (("count", [6, 0]), ("count", [4, 1]), ("known", [5, 0]), ("right", [-1, 0])):
        with pytest.raises(WireError, match="0 <= right <= known <= count <= samples without labels"):
            check_counts(calls, [{**good, name: np.array(values)}], roster)
    with pytest.raises(WireError, match="is missing"):
        check_counts(calls, [None], roster)
