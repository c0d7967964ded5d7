"""Arrays of an .npz file: kinds, tasks, columns, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgraft.data.samples import Samples
from fedgraft.data.settings import ArraysSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError

EYE = np.eye(4, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.npz"


def load(path: Path, **values: Any) -> Samples:
    return load_samples(ArraysSettings(path=str(path), **values), seed=1)


def test_features_labels_and_columns(path: Path) -> None:
    np.savez(
        path,
        features=EYE,
        labels=np.array([2, 0, 2, 1], dtype=np.uint8),
        label_names=["a", "b", "c"],
        client=[1, 1, 0, 0],
        group=["x", "y", "x", "y"],
        ids=["p", "q", "r", "s"],
    )
    samples = load(path)
    assert samples.kind == "features"
    assert samples.features().dtype == np.float32
    np.testing.assert_array_equal(samples.features(), EYE)
    assert samples.targets.dtype == np.int64
    assert samples.targets.tolist() == [2, 0, 2, 1]
    assert samples.label_names == ("a", "b", "c")
    assert samples.sample_ids.tolist() == ["p", "q", "r", "s"]
    assert samples.natural_client is not None
    assert samples.natural_client.tolist() == ["1", "1", "0", "0"]
    assert samples.group is not None
    assert samples.group.tolist() == ["x", "y", "x", "y"]
    with pytest.raises(DataError, match="features, not images; use the backbone 'identity'"):
        samples.images([0])


@pytest.mark.parametrize("shape", [(4, 5, 6), (4, 5, 6, 1), (4, 5, 6, 3)])
def test_images_of_any_channels(path: Path, shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(path, images=images, labels=[0, 1, 0, 1])
    samples = load(path)
    expected = np.broadcast_to(images if images.ndim == 4 else images[..., None], (4, 5, 6, 3))
    np.testing.assert_array_equal(samples.images([3, 1]), expected[[3, 1]])
    with pytest.raises(DataError, match="images, not features"):
        samples.features()


def test_texts_as_labels(path: Path) -> None:
    np.savez(path, features=EYE, labels=["b", "a", "b", "c"])
    assert load(path).targets.tolist() == [1, 0, 1, 2]
    np.savez(path, features=EYE, labels=["b", "a", "b", "c"], label_names=["c", "b", "a", "z"])
    assert load(path).targets.tolist() == [1, 2, 1, 0]


def test_several_labels_and_real_targets(path: Path) -> None:
    np.savez(path, features=EYE, labels=np.array([[1, 0], [0, 0], [1, 1], [0, 1]]))
    several = load(path, task="labels")
    assert several.targets.tolist() == [[1, 0], [0, 0], [1, 1], [0, 1]]
    assert several.label_names == ("label-0", "label-1")
    np.savez(path, features=EYE, labels=[0.5, 1, 2, 3])
    assert load(path, task="real").targets.tolist() == [0.5, 1, 2, 3]


def test_equal_rows_have_equal_digests_and_a_changed_file_is_noticed(path: Path) -> None:
    np.savez(path, features=[[1.0], [2.0], [1.0]], labels=[0, 1, 0])
    first = load(path)
    digests = first.sample_digests()
    assert digests.shape == (3, 16)
    assert (digests[0] == digests[2]).all()
    assert (digests[0] != digests[1]).any()
    np.savez(path, features=[[1.0], [3.0], [1.0]], labels=[0, 1, 0])
    os.utime(path, ns=(5, 5))
    second = load(path)
    assert (second.sample_digests() != digests).any(axis=1).tolist() == [False, True, False]
    assert second.digest() != first.digest()


def test_arrays_that_are_not_used_are_said(path: Path) -> None:
    np.savez(path, features=EYE, labels=[0, 1, 0, 1], clients=[0, 0, 1, 1])
    assert load(path).notes[0].startswith("arrays that are not used: clients; known are images, features")


@pytest.mark.parametrize(
    ("arrays", "task", "message"),
    [
        ({"labels": [0, 1]}, "classes", "must hold 'labels' and either 'images' or 'features'; it has labels"),
        ({"features": EYE, "label": [0] * 4}, "classes", "it has features, label; did you mean 'label'"),
        ({"features": EYE, "images": EYE, "labels": [0] * 4}, "classes", "either 'images' or 'features'"),
        ({"features": EYE, "labels": [0, 1, 2]}, "classes", r"'labels' has the shape \(3,\), but there are 4 samples"),
        ({"features": EYE, "labels": [0.0, 1, 2, 1]}, "classes", "are float64 .*not integers; .*set task: real"),
        ({"features": EYE, "labels": [0, -2, 2, 1]}, "classes", "1 of 4 labels are out of range, such as -2 in row 1"),
        (
            {"features": EYE, "labels": [0, 1, 2, 1], "label_names": ["a", "b"]},
            "classes",
            "out of range, such as 2 in row 2; expected 0 to 1, or -1 for no label, as label_names has 2",
        ),
        ({"features": EYE, "labels": [0, 1, 2, 10**9]}, "classes", "such as 1000000000 in row 3"),
        ({"features": EYE, "labels": ["a", "b", "c", "x"], "label_names": ["a", "b", "c"]}, "classes", "names: x"),
        ({"features": EYE, "labels": np.zeros((4, 2), int)}, "classes", "one integer a sample .set task: labels"),
        ({"features": EYE, "labels": [3, 3, 3, 3]}, "classes", "all 4 samples have the one class '3'"),
        ({"features": EYE, "labels": [0, 1, 2, 1]}, "labels", "task: labels needs zeros and ones of shape"),
        ({"features": EYE, "labels": np.full((4, 2), 2)}, "labels", "task: labels needs zeros and ones of shape"),
        (
            {"features": EYE, "labels": np.eye(4, 2, dtype=int), "label_names": ["a"]},
            "labels",
            "label_names has 1 names, but 'labels' has 2 columns",
        ),
        ({"features": EYE, "labels": [0, np.nan, 1, np.inf]}, "real", r"2 of 4 targets are NaN or infinite \(1, 3\)"),
        ({"features": np.array([[1], [np.nan], [2], [-np.inf]]), "labels": [0, 1] * 2}, "classes", r"rows 1, 3\)"),
        ({"features": np.array([[1], [1e300]]), "labels": [0, 1]}, "classes", "1 of 2 rows of 'features' have NaN"),
        ({"features": np.zeros(4), "labels": [0, 1] * 2}, "classes", r"features must be numbers of shape \(N, D\)"),
        ({"features": np.array([["a"]] * 4), "labels": [0, 1] * 2}, "classes", "features must be numbers"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8), "labels": [0, 1] * 2}, "classes", "channels last"),
        ({"images": np.zeros((4, 8, 8)), "labels": [0, 1] * 2}, "classes", "images must be uint8 of 0 to 255"),
        ({"features": EYE, "labels": [0, 1] * 2, "client": [0.5] * 4}, "classes", "'client' is float64 of shape"),
        ({"features": EYE, "labels": [0, 1] * 2, "client": [0]}, "classes", r"'client' has the shape \(1,\)"),
        (
            {"features": EYE, "labels": [0, 1] * 2, "ids": list("aabc")},
            "classes",
            "1 of 3 stand more than once: a",
        ),
        ({"features": EYE, "labels": [0, 1] * 2, "is_test": [0] * 4}, "classes", "'is_test' is int64"),
        ({"features": np.zeros((0, 3)), "labels": np.zeros(0, int)}, "classes", "no samples"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(path: Path, arrays: dict[str, Any], task: str, message: str) -> None:
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        load(path, task=task)


def test_a_file_that_is_no_npz(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.npz does not exist"):
        load(tmp_path / "b.npz")
    path.write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"is no \.npz file of plain arrays"):
        load(path)
    np.save(tmp_path / "c.npy", EYE)
    with pytest.raises(DataError, match=r"is no \.npz file of plain arrays"):
        load(tmp_path / "c.npy")
    np.savez(path, features=np.ones((500, 500)), labels=[0, 1] * 250)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"is no \.npz file of plain arrays"):
        load(path)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_pickled_objects_are_refused_and_never_run(path: Path, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "ran")
    np.savez(path, features=EYE, labels=np.array([trap] * 4, dtype=object))
    with pytest.raises(DataError, match="'labels' holds pickled objects, which are refused as they can run code"):
        load(path)
    path.write_bytes(pickle.dumps(trap))
    with pytest.raises(DataError, match=r"is no \.npz file of plain arrays"):
        load(path)
    assert not (tmp_path / "ran").exists()
