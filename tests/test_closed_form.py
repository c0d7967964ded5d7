"""Ridge heads from moments against scikit-learn's Ridge, fitted to the samples themselves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedgraft.closed_form import (
    LeaveOut,
    best_lambda,
    moment_shapes,
    predict,
    regression_moments,
    regression_targets,
    ridge,
    without,
)

Task = str
NUM_SAMPLES, NUM_OUTPUTS, FEATURE_DIM = 120, 3, 7


def samples(task: Task) -> tuple[NDArray[np.float64], NDArray[np.generic]]:
    """Features with means far from 0 and unequal spreads, and targets that depend on them."""
    draw = np.random.default_rng(5)
    features = draw.normal(3.0, 1.0, (NUM_SAMPLES, FEATURE_DIM)) * np.linspace(0.5, 2, FEATURE_DIM)
    outputs = features @ draw.normal(size=(FEATURE_DIM, NUM_OUTPUTS)) + draw.normal(size=(NUM_SAMPLES, NUM_OUTPUTS))
    outputs -= outputs.mean(axis=0)
    if task == "classes":
        return features, outputs.argmax(axis=1)
    return features, (outputs > 1).astype(np.uint8) if task == "labels" else outputs


def coded(targets: NDArray[np.generic], task: Task) -> NDArray[np.float64]:
    """One-hot classes, -1 and 1 for labels, real targets as they are; written by hand."""
    if task == "classes":
        return np.array([[float(target == number) for number in range(NUM_OUTPUTS)] for target in targets])
    return np.array([[1.0 if value else -1.0 for value in row] for row in targets]) if task == "labels" else targets


def moments_of(features: NDArray[np.float64], answers: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Moments by their definition."""
    return {
        "count": np.array(float(len(features))),
        "feature_sum": features.sum(axis=0),
        "target_sum": answers.sum(axis=0),
        "cross_moment": answers.T @ features,
        "second_moment": features.T @ features,
    }


def mean_eigenvalue(features: NDArray[np.float64]) -> float:
    return float(np.trace(features.T @ features) / FEATURE_DIM)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("share", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("task", ["classes", "labels", "real"])
def test_ridge_is_that_of_scikit_learn(task: Task, share: float, bias: bool) -> None:
    """scikit-learn's Ridge does not penalise its intercept, and its alpha stands on the sum of squares."""
    from sklearn.linear_model import Ridge

    features, targets = samples(task)
    lambda_ = share * mean_eigenvalue(features)
    head = ridge(moments_of(features, coded(targets, task)), lambda_, bias)
    expected = Ridge(alpha=lambda_, fit_intercept=bias).fit(features, coded(targets, task)).predict(features)
    assert set(head) == ({"weight", "bias"} if bias else {"weight"})
    assert head["weight"].shape == (NUM_OUTPUTS, FEATURE_DIM)
    np.testing.assert_allclose(predict(head, features), expected, rtol=0, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("task", ["classes", "labels", "real"])
def test_targets_and_moments_are_coded_alike(task: Task) -> None:
    """Moments recoded from plain sums of 0 and 1 are those of the coded targets."""
    features, targets = samples(task)
    expected = moments_of(features, coded(targets, task))
    if task == "classes":
        rows = [features[targets == number] for number in range(NUM_OUTPUTS)]
        statistics = {
            "class_count": np.array([float(len(part)) for part in rows]),
            "class_sum": np.array([part.sum(axis=0) for part in rows]),
            "second_moment": np.array([part.T @ part for part in rows]),  # per_class
        }
    else:
        statistics = moments_of(features, targets.astype(float)) | {"target_square": np.zeros(NUM_OUTPUTS)}
    found = regression_moments(statistics, task)
    assert {name: value.shape for name, value in found.items()} == moment_shapes(NUM_OUTPUTS, FEATURE_DIM)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12 * np.abs(value).max(), err_msg=name)
    np.testing.assert_array_equal(regression_targets(targets, task, NUM_OUTPUTS), coded(targets, task))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("num_left_out", [1, 3, 40, 118])
@pytest.mark.parametrize("task", ["classes", "labels", "real"])
def test_leaving_out_is_refitting(task: Task, num_left_out: int, bias: bool) -> None:
    """Both forms give the outputs of scikit-learn's Ridge fitted to the other samples, few or many left out."""
    from sklearn.linear_model import Ridge

    features, targets = samples(task)
    answers = coded(targets, task)
    lambdas = [share * mean_eigenvalue(features) for share in (1e-6, 1e-2, 10.0)]
    everything = moments_of(features, answers)
    own, rest = slice(0, num_left_out), slice(num_left_out, None)
    leave_out = LeaveOut(everything, lambdas, bias)
    from_outputs = list(leave_out.outputs(features[own], answers[own]))
    from_heads = list(leave_out.heads(moments_of(features[own], answers[own])))
    assert len(from_outputs) == len(from_heads) == len(lambdas)
    for lambda_, outputs, head in zip(lambdas, from_outputs, from_heads, strict=True):
        refitted = Ridge(alpha=lambda_, fit_intercept=bias).fit(features[rest], answers[rest])
        expected = refitted.predict(features[own])
        tolerance = 1e-7 * np.abs(expected).max()
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(predict(head, features[own]), expected, rtol=0, atol=tolerance)


def test_the_form_follows_shapes() -> None:
    """With n much below D the n x n system is smaller, with n much above it the D x D one."""
    wide = LeaveOut(moments_of(np.zeros((5, 200)), np.zeros((5, 2))), [1.0])
    assert wide.prefers_outputs(10)
    assert wide.prefers_outputs(100)
    assert not wide.prefers_outputs(250)
    narrow = LeaveOut(moments_of(np.zeros((5, 4)), np.zeros((5, 2))), [1.0])
    assert narrow.prefers_outputs(2)
    assert not narrow.prefers_outputs(20)


def test_taking_out_leaves_the_others() -> None:
    """Moments of all less those of some are those of the others."""
    features, targets = samples("real")
    rest = without(moments_of(features, targets), moments_of(features[:50], targets[:50]))
    for name, value in moments_of(features[50:], targets[50:]).items():
        np.testing.assert_allclose(rest[name], value, rtol=1e-12, atol=1e-10, err_msg=name)


def test_of_equal_lambdas_the_largest_is_best() -> None:
    assert best_lambda([0.1, 1.0, 10.0, 100.0], np.array([3, 9, 9, 2])) == 10.0
    assert best_lambda([10.0, 0.1], np.array([-4.0, -2.0])) == 0.1


@pytest.mark.parametrize("lambda_", [0.0, -1.0, float("nan"), float("inf"), 1e-300])
def test_lambda_must_be_above_rounding(lambda_: float) -> None:
    moments = moments_of(*samples("real"))
    with pytest.raises(ValueError, match=r"lambda came as .*; expected a number above 0 and not below"):
        ridge(moments, lambda_)


def test_moments_of_nobody_give_no_head() -> None:
    nothing = moments_of(np.zeros((0, FEATURE_DIM)), np.zeros((0, NUM_OUTPUTS)))
    with pytest.raises(ValueError, match="at least one sample; the moments are of 0"):
        ridge(nothing, 1.0)


def test_ridge_needs_the_whole_second_moment() -> None:
    statistics = {"class_count": np.ones(2), "class_sum": np.ones((2, 3))}
    with pytest.raises(ValueError, match=r"'shared' or 'per_class'; the statistics have class_count, class_sum$"):
        regression_moments(statistics, "classes")
    with pytest.raises(ValueError, match="the statistics have class_count, class_sum, square_sum"):
        regression_moments(statistics | {"square_sum": np.ones((2, 3))}, "classes")
