"""Samples of two modalities, of which each has one or both: concatenated features with a mask of what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from fedgraft.conduct import run_resolved
from fedgraft.data.federation import build_federation
from fedgraft.data.settings import FeaturesSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError
from fedgraft.runs import Run
from scenarios.schema import Scenario

NUM_ROWS, SOUND_DIM, PENALTY = 400, 5, 0.5


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    """Digits as pictures (their pixels), and made sounds that depend on the digit; two owners of three lack one."""
    generator = np.random.default_rng(3)
    digits = load_digits()
    pixels, labels = digits.data[:NUM_ROWS] / 16, digits.target[:NUM_ROWS]
    sounds = generator.standard_normal((10, SOUND_DIM))[labels] + 0.5 * generator.standard_normal((NUM_ROWS, SOUND_DIM))
    owners = np.array(["camera", "microphone", "both"])[np.arange(NUM_ROWS) % 3]
    return {"pixels": pixels, "sounds": sounds, "labels": labels, "owners": owners}


def written(path: Path, parts: dict[str, Any], has_pixels: Any, has_sounds: Any) -> Path:
    def lists(values: Any, has: Any) -> Any:
        rows = [row.tolist() if there else None for row, there in zip(values, has, strict=True)]
        return arrow.array(rows, arrow.list_(arrow.float64(), values.shape[1]))

    columns = {"pixels": lists(parts["pixels"], has_pixels), "sounds": lists(parts["sounds"], has_sounds)}
    parquet.write_table(arrow.table({**columns, "label": parts["labels"], "owner": parts["owners"].tolist()}), path)
    return path


def run(path: Path, out: Path, **blocks: Any) -> Run:
    source = {"name": "features", "path": str(path), "optional_columns": ["pixels", "sounds"], "client_column": "owner"}
    text = {
        "name": "modalities",
        "backbone": "identity",
        "data": {"source": source, "partition": "natural"},
        "strategy": {"name": "ridge", "penalty": PENALTY},
        **blocks,
    }
    return run_resolved(Scenario.model_validate_json(json.dumps(text)), out, pictures=False)


def test_owners_of_one_modality_and_of_both_make_one_head(parts: dict[str, Any], tmp_path: Path) -> None:
    """Of numpy's concatenation, zeros and masks written out by hand, scikit-learn's Ridge on all training samples."""
    has_pixels, has_sounds = parts["owners"] != "microphone", parts["owners"] != "camera"
    path = written(tmp_path / "t.parquet", parts, has_pixels, has_sounds)
    found = run(path, tmp_path / "run")
    p, s = has_pixels[:, None].astype(float), has_sounds[:, None].astype(float)
    expected = np.concatenate([parts["pixels"] * p, p, parts["sounds"] * s, s], axis=1)
    scenario = found.scenario
    federation = build_federation(scenario.data, scenario.seed)
    np.testing.assert_allclose(federation.samples.features(), expected, rtol=1e-6)
    assert federation.client_names == ("both", "camera", "microphone")
    train = federation.train.indices
    one_hot = np.eye(10)[parts["labels"][train]]
    oracle = Ridge(alpha=PENALTY).fit(expected[train], one_hot)
    weight = found.head["weight"] * (1 / np.abs(found.head["weight"]).max()) * np.abs(oracle.coef_).max()
    np.testing.assert_allclose(weight, oracle.coef_, atol=2e-5)
    answers = [prediction.label for prediction in found.predict([path])]
    wanted = oracle.predict(expected).argmax(axis=1)
    assert np.mean([int(label or -1) == digit for label, digit in zip(answers, wanted, strict=True)]) > 0.995


def test_a_modality_that_nobody_has_changes_nothing(parts: dict[str, Any], tmp_path: Path) -> None:
    everyone, nobody = np.ones(NUM_ROWS, dtype=bool), np.zeros(NUM_ROWS, dtype=bool)
    path = written(tmp_path / "t.parquet", parts, everyone, nobody)
    both = run(path, tmp_path / "both")
    alone = {"feature_columns": ["pixels"], "name": "features", "path": str(path), "client_column": "owner"}
    one = run(path, tmp_path / "one", data={"source": alone, "partition": "natural"})
    np.testing.assert_allclose(both.head["weight"][:, :64], one.head["weight"], atol=1e-6)
    np.testing.assert_allclose(both.head["weight"][:, 64:], 0, atol=1e-7)
    assert both.summary["central"]["accuracy"] == one.summary["central"]["accuracy"]


def test_gradient_heads_learn_from_both(parts: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", parts, parts["owners"] != "microphone", parts["owners"] != "camera")
    trained = {
        "strategy": "fedavg",
        "server": {"rounds": 5},
        "train": {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
    }
    losses = [row["loss"] for row in run(path, tmp_path / "run", **trained).metrics if row["group"] == "central"]
    assert losses[-1] < 0.75 * losses[0]


def test_a_row_of_half_a_vector_is_no_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(arrow.table({"v": [[1.0, None], [1.0, 2.0], None], "label": ["a", "b", "a"]}), path)
    with pytest.raises(DataError, match=r"column 'v': 1 of 3 values are missing, infinite or too large \(row 0\)"):
        load_samples(FeaturesSettings(path=str(path), optional_columns=("v",)), seed=1)
    with pytest.raises(DataError, match="`optional_columns` may be missing"):
        load_samples(FeaturesSettings(path=str(path)), seed=1)


def test_single_numbers_may_be_missing_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,dose,label\n50,,a\n40,3,b\n")
    samples = load_samples(FeaturesSettings(path=str(tmp_path / "t.csv"), optional_columns=("dose",)), seed=1)
    assert samples.feature_names == ("age", "dose", "dose is there")
    assert samples.features().tolist() == [[50, 0, 0], [40, 3, 1]]
