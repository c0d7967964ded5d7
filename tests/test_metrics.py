"""Metrics against scikit-learn, and their additivity under any split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as reference

from fedgraft.evaluation import Objective, evaluate_rows
from fedgraft.metrics import (
    LARGEST_CONFUSION,
    PRIMARY,
    add_sums,
    metric_shapes,
    metric_sums,
    over_clients,
    sample_scores,
    summarise,
)
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.loss_settings import SoftmaxLoss
from fedgraft.models.losses import Task

TASKS: tuple[Task, ...] = ("classes", "labels", "real")


def made(task: Task, num_samples: int, num_outputs: int, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """Return outputs, targets and losses of the task's kind."""
    generator = np.random.default_rng(seed)
    outputs = generator.normal(size=(num_samples, num_outputs)).astype(np.float32)
    losses = generator.exponential(size=num_samples)
    if task == "classes":
        return outputs, generator.integers(0, num_outputs, num_samples), losses
    if task == "labels":
        return outputs, generator.integers(0, 2, (num_samples, num_outputs)).astype(np.uint8), losses
    return outputs, generator.normal(3, 2, (num_samples, num_outputs)).astype(np.float32), losses


sizes = st.tuples(st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**31))


@given(sizes)
def test_classes_agree_with_scikit_learn(size: tuple[int, int, int]) -> None:
    outputs, targets, losses = made("classes", *size)
    ours = summarise(metric_sums(outputs, targets, losses, "classes"), "classes")
    predicted = outputs.argmax(axis=1)
    occurring = np.unique(targets)
    expected = {
        "loss": losses.mean(),
        "accuracy": reference.accuracy_score(targets, predicted),
        # balanced_accuracy_score is this mean too, but warns of classes that are predicted and do not occur
        "balanced_accuracy": reference.recall_score(targets, predicted, labels=occurring, average="macro"),
        "macro_f1": reference.f1_score(targets, predicted, average="macro"),
    }
    assert ours == pytest.approx(expected, rel=1e-12)


@given(sizes)
def test_labels_agree_with_scikit_learn(size: tuple[int, int, int]) -> None:
    outputs, targets, losses = made("labels", *size)
    ours = summarise(metric_sums(outputs, targets, losses, "labels"), "labels")
    predicted = (outputs > 0).astype(int)
    seen = (predicted | targets).any(axis=0)
    macro = reference.f1_score(targets, predicted, average="macro", zero_division=np.nan) if seen.any() else 0.0
    expected = {
        "loss": losses.mean(),
        "accuracy": 1 - reference.hamming_loss(targets, predicted),
        "subset_accuracy": reference.accuracy_score(targets, predicted),
        "micro_f1": reference.f1_score(targets, predicted, average="micro", zero_division=0),
        "macro_f1": macro,
    }
    assert ours == pytest.approx(expected, rel=1e-12)


@given(sizes)
def test_real_numbers_agree_with_scikit_learn(size: tuple[int, int, int]) -> None:
    num_samples, num_outputs, seed = max(size[0], 2), size[1] - 1, size[2]
    outputs, targets, losses = made("real", num_samples, num_outputs, seed)
    ours = summarise(metric_sums(outputs, targets, losses, "real"), "real")
    exact, wanted = outputs.astype(float), targets.astype(float)
    expected = {
        "loss": losses.mean(),
        "mean_squared_error": reference.mean_squared_error(wanted, exact),
        "root_mean_squared_error": reference.root_mean_squared_error(wanted, exact),
        "mean_absolute_error": reference.mean_absolute_error(wanted, exact),
        "r_squared": reference.r2_score(wanted, exact),
    }
    assert ours == pytest.approx(expected, rel=1e-8)


@given(task=st.sampled_from(TASKS), size=sizes, data=st.data())
def test_sums_add_up_under_any_split(task: Task, size: tuple[int, int, int], data: st.DataObject) -> None:
    outputs, targets, losses = made(task, *size)
    whole = metric_sums(outputs, targets, losses, task)
    owners = np.array(data.draw(st.lists(st.integers(0, 3), min_size=size[0], max_size=size[0])))
    parts = [metric_sums(outputs[owners == o], targets[owners == o], losses[owners == o], task) for o in range(4)]
    added = add_sums(list(data.draw(st.permutations(parts))))
    assert set(added) == set(whole) == set(metric_shapes(task, size[1]))
    for name, value in whole.items():
        assert value.shape == metric_shapes(task, size[1])[name]
        np.testing.assert_allclose(added[name], value, rtol=1e-12, atol=1e-12)


@given(task=st.sampled_from(TASKS), size=sizes)
def test_scores_of_samples_add_up_to_the_sum(task: Task, size: tuple[int, int, int]) -> None:
    outputs, targets, losses = made(task, *size)
    sums = metric_sums(outputs, targets, losses, task)
    total = sums["squared_error"].sum() if task == "real" else sums["correct"]
    np.testing.assert_allclose(sample_scores(outputs, targets, task).sum(), total, rtol=1e-12)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 2000.7, -1e6])
def test_constant_targets_have_no_r_squared(value: float) -> None:
    """The spread of a constant is 0 up to rounding; dividing by that would give any number at all."""
    for count in (1, 3, 7, 1000):
        targets = np.full(count, value)
        sums = metric_sums(np.zeros((count, 1)), targets, np.zeros(count), "real")
        assert "r_squared" not in summarise(sums, "real")


def test_targets_far_from_zero_keep_their_r_squared() -> None:
    targets = np.random.default_rng(0).normal(2000, 10, (500, 1))
    outputs = targets + np.random.default_rng(1).normal(0, 5, (500, 1))
    ours = summarise(metric_sums(outputs, targets, np.zeros(500), "real"), "real")
    assert ours["r_squared"] == pytest.approx(reference.r2_score(targets, outputs), rel=1e-8)


@pytest.mark.parametrize("task", TASKS)
def test_no_samples_give_no_metrics(task: Task) -> None:
    outputs, targets, losses = made(task, 0, 3, 0)
    assert summarise(metric_sums(outputs, targets, losses, task), task) == {}


def test_many_classes_go_without_a_confusion_matrix() -> None:
    outputs, targets, losses = made("classes", 50, LARGEST_CONFUSION + 1, 0)
    sums = metric_sums(outputs, targets, losses, "classes")
    assert set(sums) == set(metric_shapes("classes", LARGEST_CONFUSION + 1)) == {"count", "loss", "correct"}
    assert set(summarise(sums, "classes")) == {"loss", "accuracy"}


def test_the_leading_metric_of_each_task_exists() -> None:
    for task in TASKS:
        outputs, targets, losses = made(task, 10, 3, 0)
        assert PRIMARY[task] in summarise(metric_sums(outputs, targets, losses, task), task)


@settings(max_examples=20)
@given(chunk=st.integers(1, 9), seed=st.integers(0, 100))
def test_evaluation_in_chunks_is_evaluation_at_once(chunk: int, seed: int) -> None:
    """The rows are taken in the order given, repeated ones count again, and float16 features are widened."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(20, 4)).astype(np.float16)
    targets, rows = generator.integers(0, 3, 20), generator.integers(0, 20, 17)
    head = {"weight": generator.normal(size=(3, 4)).astype(np.float32), "bias": np.ones(3, dtype=np.float32)}
    objective = Objective(LinearHead(), SoftmaxLoss(label_smoothing=0.3), "classes", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedgraft.evaluation.ROWS_A_CHUNK", chunk)
        result = evaluate_rows(features, targets, rows, head, objective)
    logits = features[rows].astype(float) @ head["weight"].T + 1
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    per_row = -np.log(probabilities[np.arange(17), targets[rows]])
    np.testing.assert_allclose(result.losses, per_row, rtol=1e-4, atol=1e-6)
    assert result.scores.tolist() == (logits.argmax(axis=1) == targets[rows]).tolist()
    assert float(result.sums["loss"]) == pytest.approx(
        reference.log_loss(targets[rows], probabilities, labels=[0, 1, 2], normalize=False), rel=1e-4
    )


def test_evaluation_of_no_rows_gives_zeros_of_every_sum() -> None:
    objective = Objective(LinearHead(bias=False), SoftmaxLoss(), "classes", 3)
    head = {"weight": np.zeros((3, 4), dtype=np.float32)}
    nothing = np.zeros(0, dtype=np.int64)
    result = evaluate_rows(np.zeros((5, 4), dtype=np.float32), np.zeros(5, dtype=int), nothing, head, objective)
    assert {name: value.shape for name, value in result.sums.items()} == metric_shapes("classes", 3)
    assert not any(value.any() for value in result.sums.values())


def test_over_clients_by_hand() -> None:
    """Of 11 clients with samples the worst two count as the worst tenth; of squared errors those are the largest."""
    scores, counts = np.array([0.0, *np.arange(1, 12)]), np.array([0, *[3] * 11])
    spread = {"client_mean": 6.0, "client_spread": pytest.approx(10**0.5)}  # of 1 to 11: (11^2 - 1) / 12 = 10
    assert over_clients(scores, counts, "classes") == spread | {"client_worst_decile": 1.5}
    assert over_clients(scores, counts, "real") == spread | {"client_worst_decile": 10.5}
    assert over_clients(scores, np.zeros(12), "classes") == {}
