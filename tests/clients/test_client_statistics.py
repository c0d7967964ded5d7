"""Sums of features and leave-one-client-out on the client's side, against plain loops and refits."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from clients import statistics
from clients.cross_validation import CrossValidation
from clients.statistics import statistics_sums
from fedgraft.closed_form import regression_moments
from fedgraft.errors import WireError
from fedgraft.wire.statistics import check_statistics_size, statistics_bytes, statistics_shapes

TASKS = ("classes", "labels", "real")
ASKED = [(task, kind) for task in TASKS for kind in ("none", "diagonal", "shared", "per_class")]
ASKED = [case for case in ASKED if case[0] == "classes" or case[1] != "per_class"]
NUM_OUTPUTS, FEATURE_DIM = 3, 4


def samples(task: str, num_samples: int = 60, dtype: str = "float32") -> tuple[NDArray[Any], NDArray[Any]]:
    """Features, and targets that depend on them."""
    draw = np.random.default_rng(11)
    features = draw.normal(1.0, 1.0, (num_samples, FEATURE_DIM)).astype(dtype)
    outputs = features.astype(float) @ draw.normal(size=(FEATURE_DIM, NUM_OUTPUTS))
    outputs += draw.normal(size=outputs.shape) - outputs.mean(axis=0)
    if task == "classes":
        return features, outputs.argmax(axis=1)
    return features, (outputs > 0).astype(np.uint8) if task == "labels" else outputs.astype(np.float32)


def by_hand(features: NDArray[Any], targets: NDArray[Any], rows: Sequence[int], task: str) -> dict[str, NDArray[Any]]:
    """All sums, sample by sample, in Python's floats."""
    num, dim = NUM_OUTPUTS, FEATURE_DIM
    shapes: dict[str, tuple[int, ...]] = {"class_count": (num,), "class_sum": (num, dim), "count": ()}
    shapes |= {"feature_sum": (dim,), "target_sum": (num,), "target_square": (num,), "cross_moment": (num, dim)}
    shapes |= {"diagonal": (num, dim) if task == "classes" else (dim,), "shared": (dim, dim)}
    sums = {name: np.zeros(shape) for name, shape in (shapes | {"per_class": (num, dim, dim)}).items()}
    for row in rows:
        x = [float(value) for value in features[row]]
        sums["count"] += 1
        sums["feature_sum"] += x
        sums["shared"] += [[a * b for b in x] for a in x]
        squares = [a * a for a in x]
        if task == "classes":
            number = int(targets[row])
            sums["class_count"][number] += 1
            sums["class_sum"][number] += x
            sums["diagonal"][number] += squares
            sums["per_class"][number] += [[a * b for b in x] for a in x]
            continue
        y = [float(value) for value in targets[row]]
        sums["target_sum"] += y
        sums["target_square"] += [value * value for value in y]
        sums["cross_moment"] += [[value * a for a in x] for value in y]
        sums["diagonal"] += squares
    return sums


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("task", "kind"), ASKED)
def test_sums_are_those_of_a_plain_loop(task: str, kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, shapes and values, of some rows only, over several chunks."""
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 8 * FEATURE_DIM * 7)
    features, targets = samples(task, dtype=dtype)
    rows = np.arange(3, 55, 2)
    found = statistics_sums(features, targets, rows, task, NUM_OUTPUTS, kind)
    expected = by_hand(features, targets, rows.tolist(), task)
    expected |= {"square_sum": expected["diagonal"], "second_moment": expected.get(kind, np.zeros(0))}
    assert {name: value.shape for name, value in found.items()} == statistics_shapes(3, 4, kind, task)
    for name, value in found.items():
        assert value.dtype == np.float64
        np.testing.assert_allclose(value, expected[name], rtol=1e-13, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("kind", ["none", "shared"])
@pytest.mark.parametrize("task", TASKS)
def test_radial_moments_are_those_of_a_plain_loop(task: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the same other sums, over several chunks, and in the bytes that are told beforehand."""
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 8 * FEATURE_DIM * 7)
    features, targets = samples(task)
    rows = np.arange(3, 55, 2)
    found = statistics_sums(features, targets, rows, task, NUM_OUTPUTS, kind, True)
    without = statistics_sums(features, targets, rows, task, NUM_OUTPUTS, kind)
    assert {name: value.shape for name, value in found.items()} == statistics_shapes(3, 4, kind, task, True)
    third, fourth = np.zeros(FEATURE_DIM), 0.0
    for row in rows:
        x = [float(value) for value in features[row]]
        length = math.fsum(value * value for value in x)
        third += [length * value for value in x]
        fourth += length * length
    np.testing.assert_allclose(found.pop("third_moment"), third, rtol=1e-12)
    assert float(found.pop("fourth_moment")) == pytest.approx(fourth, rel=1e-12)
    for name, value in without.items():
        np.testing.assert_array_equal(found[name], value)
    difference = statistics_bytes(3, 4, kind, task, True) - statistics_bytes(3, 4, kind, task)
    assert difference == 8 * (FEATURE_DIM + 1) + 2 * 128


@pytest.mark.parametrize(("task", "kind"), ASKED)
def test_clients_without_samples_give_zeros(task: str, kind: str) -> None:
    features, targets = samples(task)
    found = statistics_sums(features, targets, np.zeros(0, dtype=np.int64), task, NUM_OUTPUTS, kind)
    assert {name: value.shape for name, value in found.items()} == statistics_shapes(3, 4, kind, task)
    assert not any(value.any() for value in found.values())


@settings(max_examples=60, deadline=None)
@given(data=st.data(), case=st.sampled_from(ASKED))
def test_sums_are_exact_under_any_split_and_order(data: st.DataObject, case: tuple[str, str]) -> None:
    """Whole numbers add without rounding in float64, so any clients, shards and order give the same bits."""
    task, kind = case
    num_samples = data.draw(st.integers(1, 40))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    features = draw.integers(-50, 50, (num_samples, FEATURE_DIM)).astype(np.float32)
    targets = draw.integers(0, NUM_OUTPUTS, num_samples)
    if task != "classes":
        targets = draw.integers(0, 2, (num_samples, NUM_OUTPUTS)).astype(np.uint8 if task == "labels" else np.float32)
    whole = statistics_sums(features, targets, np.arange(num_samples), task, NUM_OUTPUTS, kind)
    order = np.array(data.draw(st.permutations(range(num_samples))))
    cuts = sorted(data.draw(st.lists(st.integers(0, num_samples), max_size=6)))
    total = {name: np.zeros_like(value) for name, value in whole.items()}
    for part in np.split(order, cuts):
        for name, value in statistics_sums(features, targets, part, task, NUM_OUTPUTS, kind).items():
            total[name] += value
    for name, value in whole.items():
        np.testing.assert_array_equal(total[name], value, err_msg=name)


def test_sums_are_in_float64() -> None:
    """10,000 values near 1,000: `math.fsum` is exact; sums or squares in float32 would be off by 1e-5 and more."""
    draw = np.random.default_rng(2)
    features = (1000 + draw.normal(size=(10_000, 1))).astype(np.float32)
    classes = np.zeros(10_000, dtype=np.int64)
    found = statistics_sums(features, classes, np.arange(10_000), "classes", 2, "shared")
    values = features[:, 0].astype(float).tolist()
    assert found["class_sum"][0, 0] == pytest.approx(math.fsum(values), rel=1e-13)
    assert found["second_moment"][0, 0] == pytest.approx(math.fsum(value * value for value in values), rel=1e-13)


def test_memory_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """40,000 x 64 features are 20 MB in float64; in chunks of 1 MB never more than 5 MB are held."""
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 2**20)
    features, classes = np.ones((40_000, 64), dtype=np.float16), np.arange(40_000) % 5
    rows = np.arange(40_000)

    tracemalloc.start()
    try:
        statistics_sums(features, classes, rows, "classes", 5, "shared")
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


def test_sums_that_would_not_fit_are_refused_with_their_bytes() -> None:
    """1,000 classes of 1280 x 1280 in float64 are 13 GB; shared takes 23 MB, with 10 MB of class sums."""
    with pytest.raises(
        WireError, match=r"second_moment 'per_class' of 1,000 outputs and 1,280 features is 13,1"
    ) as error:
        check_statistics_size(1000, 1280, "per_class")
    assert f"shared {8 * (1000 + 1000 * 1280 + 1280**2) + 3 * 128:,}, diagonal" in str(error.value)
    assert statistics_bytes(1000, 1280, "shared") == 23_355_584


@pytest.mark.parametrize("task", ["labels", "real"])
def test_moments_by_class_need_classes(task: str) -> None:
    with pytest.raises(WireError, match=f"needs one class a sample; the targets are '{task}': ask for shared"):
        statistics_shapes(3, 4, "per_class", task)


def refitted(
    features: NDArray[Any], targets: NDArray[Any], clients: Sequence[NDArray[np.int64]], task: str, lambda_: float
) -> float | int | NDArray[np.float64]:
    """Right answers, or summed squared errors, of scikit-learn's Ridge refitted without each client in turn."""
    from sklearn.linear_model import Ridge

    inputs = features.astype(np.float64)
    answers = np.eye(NUM_OUTPUTS)[targets] if task == "classes" else targets.astype(np.float64)
    everyone = np.concatenate(clients)
    total: Any = 0
    for own in clients:
        if len(own) == 0:
            continue
        others = np.setdiff1d(everyone, own)
        outputs = Ridge(alpha=lambda_).fit(inputs[others], answers[others]).predict(inputs[own])
        if task == "classes":
            total += int((outputs.argmax(axis=1) == targets[own]).sum())
        elif task == "labels":
            total += int(((outputs > 0.5) == (targets[own] > 0)).sum())
        else:
            total = total + np.square(outputs - targets[own]).sum(axis=0)
    return total


def pooled(features: NDArray[Any], targets: NDArray[Any], rows: NDArray[np.int64], task: str) -> Any:
    return regression_moments(statistics_sums(features, targets, rows, task, NUM_OUTPUTS, "shared"), task)


SIZES = (1, 0, 2, 9, 48)
"""Clients of one sample, none, a few, and more than the others together; 60 samples, 4 features: both forms."""


def shared_out(num_samples: int) -> list[NDArray[np.int64]]:
    order = np.random.default_rng(3).permutation(num_samples)
    return np.split(order, np.cumsum(SIZES)[:-1])


@pytest.mark.parametrize("task", TASKS)
def test_cross_validation_is_refitting_without_each_client(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts are equal, not nearly; clients of all sizes, over several chunks."""
    monkeypatch.setattr(statistics, "CHUNK_BYTES", 8 * FEATURE_DIM * 7)
    features, targets = samples(task)
    clients, lambdas = shared_out(60), (1e-4, 1.0, 30.0, 1e4)
    moments = pooled(features, targets, np.arange(60), task)
    found = CrossValidation(features, targets, task, NUM_OUTPUTS, moments, lambdas, True).counts(clients)
    expected = np.array([refitted(features, targets, clients, task, lambda_) for lambda_ in lambdas])
    if task == "real":
        assert list(found) == ["squared_error"]
        np.testing.assert_allclose(found["squared_error"], expected, rtol=1e-9)
        return
    assert list(found) == ["correct"]
    assert found["correct"].dtype == np.int64
    assert len(set(expected.tolist())) > 1  # the lambdas differ, so the counts tell something
    np.testing.assert_array_equal(found["correct"], expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_counts_add_up_over_hosts(seed: int, cuts: list[int]) -> None:
    """Whoever speaks for which clients: the counts add up to those of one host for all."""
    features, targets = samples("classes")
    order = np.random.default_rng(seed).permutation(60)
    clients = np.split(order, sorted([30, *cuts]))  # nobody has more than half
    moments = pooled(features, targets, np.arange(60), "classes")
    one = CrossValidation(features, targets, "classes", NUM_OUTPUTS, moments, (0.1, 10.0), True)
    parts = [one.counts([part])["correct"] for part in clients]
    np.testing.assert_array_equal(sum(parts), one.counts(clients)["correct"])


def refusal(moments: Any, task: str = "classes", clients: Sequence[NDArray[np.int64]] | None = None) -> str:
    features, targets = samples(task)
    rows = shared_out(60) if clients is None else clients
    with pytest.raises(WireError) as error:
        CrossValidation(features, targets, task, NUM_OUTPUTS, moments, (1.0,), True).counts(rows)
    return str(error.value)


@pytest.mark.parametrize("task", TASKS)
def test_moments_of_fewer_samples_are_refused(task: str) -> None:
    features, targets = samples(task)
    text = refusal(pooled(features, targets, np.arange(59), task), task)
    assert "do not contain this host's own samples: they are of 59, these clients have 60" in text
    assert "ask for statistics of the same clients first" in text


@pytest.mark.parametrize("task", ["classes", "labels"])
def test_moments_of_other_samples_are_refused(task: str) -> None:
    """As many samples, but the first class (or label) is missing among them."""
    features, targets = samples(task)
    others = targets.copy()
    others[targets == 0] = 1
    if task == "labels":
        others = targets.copy()
        others[:, 0] = 0
    text = refusal(pooled(features, others, np.arange(60), task), task)
    own = np.count_nonzero(targets == 0) if task == "classes" else np.count_nonzero(targets[:, 0])
    assert f"of output 0 they have 0, these clients {own} (1 of 3 outputs)" in text


@pytest.mark.parametrize("sizes", [(2, 58), (30, 30)])
def test_moments_of_other_features_are_refused(sizes: tuple[int, ...]) -> None:
    """The counts fit, the sums of squares can't: another backbone's features."""
    features, targets = samples("classes")
    moments = pooled((features / 100).astype(np.float32), targets, np.arange(60), "classes")
    text = refusal(moments, clients=np.split(np.arange(60), np.cumsum(sizes)[:-1]))
    assert "of 4 of 4 features a client's sum of squares is larger; ask for statistics with this backbone" in text


def test_one_client_alone_can_not_be_left_out() -> None:
    features, targets = samples("classes")
    moments = pooled(features, targets, np.arange(60), "classes")
    assert "one client holds all 60 samples of the pooled moments" in refusal(moments, clients=[np.arange(60)])


def test_lambda_must_be_above_rounding() -> None:
    features, targets = samples("classes")
    moments = pooled(features, targets, np.arange(60), "classes")
    with pytest.raises(WireError, match=r"the request's lambdas: lambda came as 1e-300; expected a number above 0"):
        CrossValidation(features, targets, "classes", NUM_OUTPUTS, moments, (1.0, 1e-300), True)


def test_moments_must_fit() -> None:
    features, targets = samples("classes")
    moments = pooled(features, targets, np.arange(60), "classes")
    assert refusal(None) == "the request's pooled moments is missing"
    missing = {name: value for name, value in moments.items() if name != "count"}
    assert "missing count" in refusal(missing)
    assert "second_moment has shape (3, 3), expected (4, 4)" in refusal(moments | {"second_moment": np.eye(3)})
    nobody = {name: np.zeros_like(value) for name, value in moments.items()}
    assert "those of no samples; send the sums of all clients" in refusal(nobody)
