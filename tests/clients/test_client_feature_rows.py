"""Rows of features in place or through a buffer: the same rows, outputs and sums, from a map or from memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clients.engine import feature_rows
from clients.engine.feature_rows import FeatureRows

DIM = 6


def features_of(kind: str, folder: Path) -> NDArray[Any]:
    values = np.random.default_rng(0).normal(size=(40, DIM)).astype("f2" if kind == "half map" else "f4")
    if kind == "memory":
        return values
    np.save(folder / "features.npy", values)
    return np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)


@pytest.mark.parametrize("kind", ["memory", "map", "half map"])
@pytest.mark.parametrize("samples", [[], [7], list(range(3, 30)), [5, 4, 3], [0, 39, 1, 1, 20, 21, 22], [1, 3, 2, 4]])
@pytest.mark.parametrize("rows_a_chunk", [1, 4, 1000])
def test_all_ways_to_read(
    kind: str, samples: list[int], rows_a_chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_rows, "CHUNK_BYTES", 8 * DIM * rows_a_chunk)
    features, numbers = features_of(kind, tmp_path), np.array(samples, dtype=np.int64)
    rows, expected = FeatureRows(features, torch.float64), features[numbers].astype(np.float64)
    assert np.array_equal(rows.of(numbers).numpy(), expected)
    places = [place for some, _ in rows.chunks(numbers) for place in range(some.start, some.stop)]
    assert places == list(range(len(samples)))
    weight, bias = (torch.from_numpy(np.random.default_rng(1).normal(size=shape)) for shape in ((3, DIM), (3,)))
    outputs = rows.outputs(numbers, weight, bias).numpy()
    np.testing.assert_allclose(outputs, expected @ weight.numpy().T + bias.numpy(), rtol=1e-12, atol=1e-12)
    coefficients = np.random.default_rng(2).normal(size=(len(samples), 3))
    summed = rows.weighted_sum(numbers, torch.from_numpy(coefficients))
    np.testing.assert_allclose(summed, coefficients.T @ expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["memory", "map"])
def test_neighbours_are_not_copied(kind: str, tmp_path: Path) -> None:
    features = features_of(kind, tmp_path)
    rows = FeatureRows(features, torch.float32)
    found = rows.of(np.arange(3, 9)).numpy()
    assert np.shares_memory(found, features)
    assert not np.shares_memory(rows.of(np.array([3, 5])).numpy(), features)
