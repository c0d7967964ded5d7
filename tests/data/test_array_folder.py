"""A folder of .npy files: mapped, never read whole, and refused where an .npz would be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedgraft.data.samples import Samples
from fedgraft.data.settings import ArraysSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError

ROWS = np.arange(12).reshape(4, 3)


def load(folder: Path, **arrays: Any) -> Samples:
    folder.mkdir(exist_ok=True)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    return load_samples(ArraysSettings(path=str(folder)), seed=1)


def map_of(values: NDArray[Any]) -> Any:
    """Return the map that an array is a view of, or None."""
    base: Any = values
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    return base


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_features_are_mapped_as_they_are(tmp_path: Path, kind: str) -> None:
    samples = load(
        tmp_path, features=ROWS.astype(kind), labels=[1, 0, 1, 0], client=["a", "b", "b", "a"], ids=["p", "q", "r", "s"]
    )
    features = samples.features()
    assert features.dtype == kind
    np.testing.assert_array_equal(features, ROWS)
    assert map_of(features).filename == tmp_path / "features.npy"
    assert not features.flags.writeable
    assert samples.targets.tolist() == [1, 0, 1, 0]
    assert samples.natural_client is not None
    assert samples.natural_client.tolist() == ["a", "b", "b", "a"]
    assert samples.sample_ids.tolist() == ["p", "q", "r", "s"]
    assert samples.features() is features


def test_images_are_mapped_and_only_those_asked_for_are_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    samples = load(tmp_path, images=images, labels=[0, 1, 0, 1])
    np.testing.assert_array_equal(samples.images([3, 1]), images[[3, 1]])


def test_the_same_samples_as_from_one_file(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"features": ROWS.astype(np.float32), "labels": [1, 0, 1, 0], "client": [5, 5, 7, 7]}
    np.savez(tmp_path / "a.npz", **arrays)
    one_file = load_samples(ArraysSettings(path=str(tmp_path / "a.npz")), seed=1)
    assert load(tmp_path / "folder", **arrays).digest() == one_file.digest()


def test_changed_features_are_noticed(tmp_path: Path) -> None:
    first = load(tmp_path, features=ROWS.astype(np.float32), labels=[0, 1, 0, 1]).digest()
    changed = ROWS.astype(np.float32)
    changed[2, 1] = -1
    np.save(tmp_path / "features.npy", changed)
    os.utime(tmp_path / "features.npy", ns=(5, 5))
    assert load(tmp_path).digest() != first


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (ROWS.astype(np.float64), r"'features' is float64 .* must be float32 or float16 in C's order: numpy\.save"),
        (ROWS, "'features' is int64 .* must be float32 or float16"),
        (np.asfortranarray(ROWS, dtype=np.float32), "in Fortran's order; .*ascontiguousarray"),
        (np.array([[1.0], [np.nan], [2], [np.inf]], dtype=np.float16), r"2 of 4 rows .*\(rows 1, 3\)"),
        (np.array([[None]] * 4), "'features' holds pickled objects, which are refused as they can run code"),
        (np.zeros((3, 2), dtype=np.float32), r"'labels' has the shape \(4,\), but there are 3 samples"),
    ],
)
def test_features_that_can_not_be_mapped_are_refused(tmp_path: Path, features: NDArray[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, features=features, labels=[0, 1, 0, 1])


def test_a_damaged_file_and_a_folder_without_arrays(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold 'labels' and either 'images' or 'features'; it has none"):
        load(tmp_path)
    load(tmp_path, features=np.ones((400, 50), dtype=np.float32), labels=[0, 1] * 200)
    path = tmp_path / "features.npy"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"features\.npy is no whole \.npy file .*write it again with numpy\.save"):
        load(tmp_path)
