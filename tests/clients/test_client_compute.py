"""Where and how exactly products are taken: devices, and bfloat16 against float32 and against rounding by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_client_engine import DIM, OUTPUTS, Case, by_engine, by_loop, distance, gathered, heads, same

from clients.engine import feature_rows, output_space
from clients.engine.cohort import Engine
from clients.settings import Adam, Sgd, TrainSettings
from fedgraft.devices import device_of, has_bfloat16, tf32
from fedgraft.errors import LaunchError
from fedgraft.evaluation import evaluate_rows
from fedgraft.randomness import name_keys

SIZES = (13, 0, 1, 7, 10, 25, 24, 3, 10, 11)
CASES = [
    Case(SIZES, TrainSettings(local_epochs=3, optimizer=Sgd(learning_rate=0.5), form="dual")),
    Case(SIZES, TrainSettings(local_epochs=3, optimizer=Sgd(learning_rate=0.5, momentum=0.5), form="primal")),
    Case(SIZES, TrainSettings(local_epochs=3, optimizer=Adam(learning_rate=0.02))),
]


def with_compute(case: Case, compute: Any) -> Case:
    return replace(case, train=case.train.model_copy(update={"compute": compute}))


def rounded(values: NDArray[Any]) -> NDArray[np.float32]:
    """Round to bfloat16 by hand: to nearest, ties to even, on the upper 16 of a float32's 32 bits."""
    bits = values.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)


@pytest.fixture(params=[False, True], ids=["emulated", "native"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(feature_rows, "has_bfloat16", lambda device: request.param)
    return bool(request.param)


@pytest.mark.parametrize("case", CASES, ids=["dual", "primal", "adam"])
def test_bfloat16_is_near_float32_and_not_it(case: Case, native: bool) -> None:
    """An operand is off by 2^-9 = 0.2 % at most; updates by little more, where Adam does not divide by small ones."""
    exact = by_engine(case, dtype=torch.float32)
    short = by_engine(with_compute(case, "bfloat16"), dtype=torch.float32)
    differences = [distance(short.updates[turn], exact.updates[turn]) for turn in exact.updates]
    assert 1e-5 < max(differences) < 0.05
    assert 1e-6 < distance(heads(case, short)[0], heads(case, exact)[0]) < 0.01


@pytest.mark.parametrize("case", CASES, ids=["dual", "primal", "adam"])
def test_where_it_is_not_native_only_features_are_rounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_rows, "has_bfloat16", lambda device: False)
    short = by_engine(with_compute(case, "bfloat16"), dtype=torch.float32)
    by_hand = by_engine(case, engine=case.engine(torch.float32, rounded(case.features)), dtype=torch.float32)
    same(short, by_hand, 1e-6)


@pytest.mark.parametrize("case", CASES, ids=["dual", "primal", "adam"])
def test_tf32_on_the_cpu_is_float32(case: Case) -> None:
    same(by_engine(with_compute(case, "tf32"), dtype=torch.float32), by_engine(case, dtype=torch.float32), 0.0)


@pytest.mark.parametrize("case", CASES, ids=["dual", "primal", "adam"])
@pytest.mark.parametrize("rows_a_chunk", [2, 1000])
def test_the_products_of_other_devices_are_the_plain_loops(
    case: Case, rows_a_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The branch that a GPU takes, with all products by torch and Gram matrices of many clients at once."""
    for module in (output_space, feature_rows):
        monkeypatch.setattr(module, "numpy_is_faster", lambda device: False)
    monkeypatch.setattr(feature_rows, "CHUNK_BYTES", 8 * DIM * rows_a_chunk)
    same(by_engine(case), by_loop(case), 1e-10)


def test_the_device_of_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(LaunchError, match=r"runtime\.device is cuda, but this process sees no CUDA device; set it to"):
        device_of("cuda")


def test_tf32_holds_in_the_block_only() -> None:
    with tf32(True):
        assert torch.backends.cuda.matmul.allow_tf32
        with tf32(False):
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def on_gpu(case: Case) -> Engine:
    features, names = case.features.astype(np.float32), case.names
    clients, keys = np.arange(len(names)), name_keys(names)
    return Engine(
        features, case.targets, case.parts, clients, keys, names, case.local_task, device=torch.device("cuda", 0)
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("resident", [1.0, 0.0])
@pytest.mark.parametrize("case", CASES, ids=["dual", "primal", "adam"])
def test_a_gpu_gives_the_cpus_numbers(case: Case, resident: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_rows, "RESIDENT_SHARE", resident)
    same(by_engine(case, engine=on_gpu(case), dtype=torch.float32), by_engine(case, dtype=torch.float32), 1e-4)
    short = with_compute(case, "bfloat16")
    trained = list(on_gpu(short).run(short.local_task, case.start(torch.float32), np.arange(len(SIZES))))
    exact = by_engine(case, dtype=torch.float32)
    assert distance(heads(case, gathered(trained))[0], heads(case, exact)[0]) < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_evaluation_on_a_gpu_is_the_cpus() -> None:
    case, rows = CASES[0], np.arange(20)
    head = {name: value.numpy() for name, value in case.start(torch.float32).items()}
    objective = case.local_task.objective
    there = evaluate_rows(case.features, case.targets, rows, head, objective, device=device_of("cuda"))
    np.testing.assert_allclose(
        there.losses, evaluate_rows(case.features, case.targets, rows, head, objective).losses, rtol=1e-5
    )
    assert has_bfloat16(device_of("cuda")) in (True, False)
    assert there.sums["confusion"].shape == (OUTPUTS, OUTPUTS)
