"""How sure a head is: against torchmetrics, scikit-learn and what users are shown, exact under any split."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss

from fedgraft.confidence import NUM_BINS, SHAPES, class_probabilities, confidence_sums, summarise_confidence
from fedgraft.evaluation import Objective, evaluate_rows
from fedgraft.metrics import add_sums, metric_shapes, summarise
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.loss_settings import SoftmaxLoss, SquaredLoss
from fedgraft.trained import probabilities

LOSSES = ("softmax", "sigmoid", "squared")
sizes = st.tuples(st.integers(1, 200), st.integers(2, 6), st.integers(0, 2**31))


def made(num_samples: int, num_classes: int, seed: int) -> tuple[NDArray, NDArray]:
    generator = np.random.default_rng(seed)
    outputs = generator.normal(0.3, 2, (num_samples, num_classes)).astype(np.float32)
    return outputs, generator.integers(0, num_classes, num_samples)


@pytest.mark.parametrize("loss", LOSSES)
@given(sizes)
def test_probabilities_are_those_that_users_are_shown(loss: str, size: tuple[int, int, int]) -> None:
    outputs, _ = made(*size)
    shown = probabilities(torch.from_numpy(outputs).double(), loss, "classes").numpy()
    np.testing.assert_allclose(class_probabilities(outputs, loss), shown, rtol=1e-12, atol=1e-15)


def test_large_outputs_do_not_overflow() -> None:
    outputs = np.array([[1e4, -1e4], [-1e4, 1e4]])
    for loss in LOSSES:
        np.testing.assert_array_equal(class_probabilities(outputs, loss), np.eye(2))


@given(sizes)
def test_the_calibration_error_is_that_of_torchmetrics(size: tuple[int, int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics' own imports
        from torchmetrics.functional.classification import multiclass_calibration_error

    outputs, targets = made(*size)
    shown = probabilities(torch.from_numpy(outputs).double(), "softmax", "classes")
    expected = multiclass_calibration_error(shown, torch.from_numpy(targets), size[1], n_bins=NUM_BINS, norm="l1")
    found = summarise_confidence(confidence_sums(outputs, targets, "softmax"))["calibration_error"]
    assert found == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@given(sizes)
def test_the_log_loss_is_that_of_scikit_learn(loss: str, size: tuple[int, int, int]) -> None:
    """Probabilities that do not sum to 1 count as shares of their sum; where all are 0 each class has the same."""
    outputs, targets = made(*size)
    shown = class_probabilities(outputs, loss)
    total = shown.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, shown / np.where(total > 0, total, 1), 1 / size[1])
    own = shares[np.arange(size[0]), targets]
    found = summarise_confidence(confidence_sums(outputs, targets, loss))["log_loss"]
    if own.min() > 1e-7:
        assert found == pytest.approx(log_loss(targets, shares, labels=np.arange(size[1])), rel=1e-9)
    else:
        assert found == pytest.approx(-np.log(own.clip(1e-7, 1)).mean(), rel=1e-9)


def test_bins_by_hand() -> None:
    """Confidences 0.2 = 3/15 and 0.21 stand in the third and fourth bin; 1.0 stands in the last, 0 in the first."""
    outputs = np.array([[0.2, 0.1], [0.21, 0.1], [1.5, 0.0], [0.0, -1.0]])
    sums = confidence_sums(outputs, np.array([0, 1, 0, 1]), "squared")
    assert np.flatnonzero(sums["bin_count"]).tolist() == [0, 2, 3, 14]
    assert sums["bin_confidence"][[0, 2, 3, 14]] == pytest.approx([0, 0.2, 0.21, 1])
    assert sums["bin_correct"][[0, 2, 3, 14]].tolist() == [0, 1, 0, 1]
    assert summarise_confidence(sums)["calibration_error"] == pytest.approx((0 + 0.8 + 0.21 + 0) / 4)


@given(size=sizes, data=st.data())
def test_sums_add_up_under_any_split(size: tuple[int, int, int], data: st.DataObject) -> None:
    outputs, targets = made(*size)
    whole = confidence_sums(outputs, targets, "softmax")
    owners = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 4, size[0])
    parts = [confidence_sums(outputs[owners == one], targets[owners == one], "softmax") for one in range(4)]
    added = add_sums(list(data.draw(st.permutations(parts))))
    assert {name: value.shape for name, value in added.items()} == SHAPES
    for name, value in whole.items():
        np.testing.assert_allclose(added[name], value, rtol=1e-12, atol=1e-12)


def test_evaluation_says_it_where_it_is_asked() -> None:
    generator = np.random.default_rng(3)
    features, targets = generator.normal(size=(30, 4)).astype(np.float32), generator.integers(0, 3, 30)
    head = {"weight": generator.normal(size=(3, 4)).astype(np.float32), "bias": np.zeros(3, dtype=np.float32)}
    rows = np.arange(30)
    for loss, task in ((SoftmaxLoss(label_smoothing=0.2), "classes"), (SquaredLoss(), "classes")):
        objective = Objective(LinearHead(), loss, task, 3)
        found = evaluate_rows(features, targets, rows, head, objective, with_confidence=True)
        assert {name: value.shape for name, value in found.sums.items()} == metric_shapes(task, 3, True)
        metrics = summarise(found.sums, task)
        if loss.name == "softmax":
            assert metrics["log_loss"] == pytest.approx(metrics["loss"], rel=1e-6)
        assert 0 <= metrics["calibration_error"] <= 1
        plain = evaluate_rows(features, targets, rows, head, objective)
        assert "log_loss" not in plain.sums
    assert "log_loss" not in metric_shapes("real", 3, True)
