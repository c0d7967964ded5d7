"""Losses against torch's own modules, and which losses fit which targets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedgraft.errors import DataError
from fedgraft.models.loss_settings import AutoLoss, LossSettings, SigmoidLoss, SoftmaxLoss, SquaredLoss
from fedgraft.models.losses import (
    Task,
    dense_targets,
    mean_loss,
    resolve_loss,
    sample_losses,
    target_tensor,
    without_smoothing,
)

sizes = st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(0, 1000))


def one_hot(targets: np.ndarray, num_outputs: int) -> torch.Tensor:
    return nn.functional.one_hot(torch.from_numpy(targets), num_outputs).float()


@given(sizes, st.floats(0, 0.9))
def test_softmax_is_cross_entropy(size: tuple[int, int, int], smoothing: float) -> None:
    num_samples, num_outputs, seed = size
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, num_outputs, num_samples)
    outputs = torch.tensor(generator.normal(size=(num_samples, num_outputs)).astype(np.float32))
    loss = SoftmaxLoss(label_smoothing=smoothing)
    wanted = target_tensor(targets, "classes", loss, num_outputs)
    losses = sample_losses(outputs, wanted, loss)
    assert losses.shape == (num_samples,)
    expected = nn.CrossEntropyLoss(label_smoothing=smoothing)(outputs, torch.from_numpy(targets))
    torch.testing.assert_close(losses.mean(), expected)
    # and by the definition: the target is spread evenly over all classes, its own included
    spread = (1 - smoothing) * one_hot(targets, num_outputs) + smoothing / num_outputs
    torch.testing.assert_close(losses, -(spread * outputs.log_softmax(dim=1)).sum(dim=1))


@given(sizes)
def test_sigmoid_is_binary_cross_entropy(size: tuple[int, int, int]) -> None:
    num_samples, num_outputs, seed = size
    generator = np.random.default_rng(seed)
    outputs = torch.tensor(generator.normal(size=(num_samples, num_outputs)).astype(np.float32) * 30)
    labels = generator.integers(0, 2, (num_samples, num_outputs)).astype(np.uint8)
    losses = sample_losses(outputs, target_tensor(labels, "labels", SigmoidLoss(), num_outputs), SigmoidLoss())
    assert losses.shape == (num_samples,)
    torch.testing.assert_close(losses.mean(), nn.BCEWithLogitsLoss()(outputs, torch.from_numpy(labels).float()))
    classes = generator.integers(0, num_outputs, num_samples)
    losses = sample_losses(outputs, target_tensor(classes, "classes", SigmoidLoss(), num_outputs), SigmoidLoss())
    torch.testing.assert_close(losses.mean(), nn.BCEWithLogitsLoss()(outputs, one_hot(classes, num_outputs)))


@given(sizes, st.booleans())
def test_squared_is_half_the_squared_error(size: tuple[int, int, int], flat: bool) -> None:
    num_samples, num_outputs, seed = size
    num_outputs = 1 if flat else num_outputs
    generator = np.random.default_rng(seed)
    outputs = torch.tensor(generator.normal(size=(num_samples, num_outputs)).astype(np.float32)).requires_grad_()
    targets = generator.normal(size=num_samples if flat else (num_samples, num_outputs))
    wanted = target_tensor(targets, "real", SquaredLoss(), num_outputs)
    losses = sample_losses(outputs, wanted, SquaredLoss())
    rows = torch.tensor(targets.reshape(num_samples, num_outputs), dtype=torch.float32)
    expected = nn.MSELoss(reduction="sum")(outputs, rows) / 2
    torch.testing.assert_close(losses.sum(), expected)
    losses.sum().backward()
    torch.testing.assert_close(outputs.grad, (outputs - rows).detach())  # the gradient is the residual


def test_targets_become_rows() -> None:
    assert dense_targets(np.array([2, 0]), "classes", 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert dense_targets(np.array([0.5, 2]), "real", 1).tolist() == [[0.5], [2]]
    assert dense_targets(np.array([[1, 0]], dtype=np.uint8), "labels", 2).dtype == np.float32
    assert target_tensor(np.zeros(0, dtype=np.int64), "classes", SquaredLoss(), 3).shape == (0, 3)


def test_read_only_targets_are_taken_without_a_warning() -> None:
    targets = np.array([0, 1, 2])
    targets.setflags(write=False)
    chosen = targets[np.array([2, 1])]
    assert target_tensor(chosen, "classes", SoftmaxLoss(), 3).tolist() == [2, 1]


AUTOMATIC: dict[Task, type[LossSettings]] = {"classes": SoftmaxLoss, "labels": SigmoidLoss, "real": SquaredLoss}
FITTING = {
    ("softmax", "classes"),
    ("sigmoid", "classes"),
    ("squared", "classes"),
    ("sigmoid", "labels"),
    ("squared", "labels"),
    ("squared", "real"),
}


@pytest.mark.parametrize("task", AUTOMATIC)
@pytest.mark.parametrize("loss", [SoftmaxLoss(label_smoothing=0.1), SigmoidLoss(), SquaredLoss()])
def test_only_fitting_losses_are_taken(task: Task, loss: LossSettings) -> None:
    assert isinstance(resolve_loss(AutoLoss(), task), AUTOMATIC[task])
    if (loss.name, task) in FITTING:
        assert resolve_loss(loss, task) is loss
        return
    fitting = " or ".join(name for name in ("softmax", "sigmoid", "squared") if (name, task) in FITTING)
    with pytest.raises(DataError) as caught:
        resolve_loss(loss, task)
    assert str(caught.value) == (f"loss '{loss.name}' does not fit the data's targets ({task}); use {fitting}, or auto")


def test_evaluation_is_without_smoothing() -> None:
    assert without_smoothing(SoftmaxLoss(label_smoothing=0.2)) == SoftmaxLoss()
    assert without_smoothing(SquaredLoss()) == SquaredLoss()


def test_labels_under_the_squared_loss_are_minus_one_and_one() -> None:
    """So that an output above 0 is a yes under every loss, as metrics and closed forms read it."""
    targets = target_tensor(np.array([[1, 0], [0, 0]], dtype=np.uint8), "labels", SquaredLoss(), 2)
    assert targets.tolist() == [[1, -1], [-1, -1]]
    classes = target_tensor(np.array([1]), "classes", SquaredLoss(), 2)
    assert classes.tolist() == [[0, 1]]


def test_class_weights_are_torchs() -> None:
    """The weighted mean, divided by the sum of the weights of the samples that are there; one absent class."""
    generator = np.random.default_rng(1)
    targets, outputs = generator.integers(0, 3, 20), torch.tensor(generator.normal(size=(20, 4)))
    for smoothing in (0.0, 0.3):
        loss = SoftmaxLoss(label_smoothing=smoothing, class_weights=(0.5, 2.0, 1.0, 7.0))
        losses, wanted = sample_losses(outputs, torch.from_numpy(targets), loss), torch.from_numpy(targets)
        weights = torch.tensor([0.5, 2, 1, 7], dtype=torch.float64)
        torch.testing.assert_close(
            mean_loss(losses, wanted, loss), nn.CrossEntropyLoss(weights, label_smoothing=smoothing)(outputs, wanted)
        )


def test_class_weights_are_put_in_the_order_of_the_labels() -> None:
    labels = ("cat", "dog", "hen")
    resolved = resolve_loss(SoftmaxLoss(class_weights={"hen": 3.0, "cat": 0.5}), "classes", labels)
    assert resolved == SoftmaxLoss(class_weights=(0.5, 1.0, 3.0))
    assert resolve_loss(resolved, "classes", labels) == resolved
    assert without_smoothing(resolved) == SoftmaxLoss()
    text = r"loss\.class_weights: the data have no class 'dgo'; did you mean 'dog'\?; they have cat, dog, hen$"
    with pytest.raises(DataError, match=text):
        resolve_loss(SoftmaxLoss(class_weights={"dgo": 1.0}), "classes", labels)
    with pytest.raises(
        DataError, match=r"2 weights came, the data have 3 classes \(cat, dog, hen\); give one for each"
    ):
        resolve_loss(SoftmaxLoss(class_weights=(1.0, 2.0)), "classes", labels)


@pytest.mark.parametrize("weights", [{"cat": 0.0}, (1.0, -1.0)])
def test_class_weights_are_positive(weights: object) -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        SoftmaxLoss(class_weights=weights)
