"""Finished runs on small pictures and on ready features, made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml

import fedgraft
from fedgraft import Run

SIZE = 24
"""Height and width of the training pictures, px; the backbone takes 32."""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Return a function that trains a head on given arrays in one round, and returns the run."""

    def make(arrays: dict[str, Any], backbone: Any, source: dict[str, Any] | None = None, **scenario: Any) -> Run:
        folder = tmp_path_factory.mktemp("run")
        np.savez(folder / "data.npz", **arrays)
        values = {
            "name": "small",
            "backbone": backbone,
            "data": {
                "source": {"name": "arrays", "path": str(folder / "data.npz"), **(source or {})},
                "partition": {"name": "iid", "clients": 2},
            },
            "server": {"rounds": 1},
            **scenario,
        }
        (folder / "small.yaml").write_text(yaml.safe_dump(values))
        return fedgraft.run(folder / "small.yaml", out=folder / "run")

    return make


@pytest.fixture(scope="session")
def training_pictures() -> np.ndarray[Any, Any]:
    """Pictures `(40, 24, 24, 3)` of two classes, dark and bright, in turn."""
    noise = np.random.default_rng(5).integers(0, 128, (40, SIZE, SIZE, 3))
    return (noise + 127 * (np.arange(40) % 2)[:, None, None, None]).astype(np.uint8)


@pytest.fixture(scope="session")
def picture_run(make_run: Callable[..., Run], training_pictures: np.ndarray[Any, Any]) -> Run:
    arrays = {"images": training_pictures, "labels": np.arange(40) % 2, "label_names": np.array(["dark", "bright"])}
    return make_run(arrays, {"name": "timm:test_resnet", "weights": "random", "input_size": 32})


@pytest.fixture(scope="session")
def feature_rows() -> np.ndarray[Any, Any]:
    return np.random.default_rng(6).standard_normal((60, 5)).astype(np.float32)


@pytest.fixture(scope="session")
def feature_run(make_run: Callable[..., Run], feature_rows: np.ndarray[Any, Any]) -> Run:
    labels = (feature_rows[:, 0] > 0).astype(np.int64) + (feature_rows[:, 1] > 0)
    arrays = {"features": feature_rows, "labels": labels, "label_names": np.array(["none", "one", "two"])}
    return make_run(arrays, "identity")
