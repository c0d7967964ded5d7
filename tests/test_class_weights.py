"""Class weights from the scenario to the trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_scenarios import small_file

import fedgraft
from fedgraft.errors import FedGraftError


def test_by_label_and_as_a_list(tmp_path: Path) -> None:
    """The same bits; other ones than without weights; and the model that comes out can be used."""
    scenario = small_file(tmp_path)
    plain = fedgraft.run(scenario, out=tmp_path / "plain")
    labels = plain.summary["label_names"]
    by_label = fedgraft.run(
        small_file(tmp_path, loss={"name": "softmax", "class_weights": {labels[2]: 4.0, labels[0]: 0.5}}),
        out=tmp_path / "by label",
    )
    listed = fedgraft.run(
        small_file(tmp_path, loss={"name": "softmax", "class_weights": [0.5, 1.0, 4.0, 1.0]}), out=tmp_path / "listed"
    )
    for name, value in by_label.head.items():
        np.testing.assert_array_equal(value, listed.head[name])
        assert np.abs(value - plain.head[name]).max() > 1e-3
    before = [next(row["loss"] for row in run.metrics if row["group"] == "central") for run in (plain, by_label)]
    assert before[0] == before[1]  # evaluation reports the loss without weights


def test_faults_name_the_key(tmp_path: Path) -> None:
    scenario = small_file(tmp_path, loss={"name": "softmax", "class_weights": {"class-O": 2.0}})
    with pytest.raises(FedGraftError, match=r"loss\.class_weights: the data have no class 'class-O'.* they have "):
        fedgraft.run(scenario, out=tmp_path / "run")
    scenario = small_file(tmp_path, loss={"name": "softmax", "class_weights": [1.0, 0.0]})
    with pytest.raises(FedGraftError, match=r"loss\.class_weights.*above 0|loss\.class_weights.*greater than 0"):
        fedgraft.run(scenario, out=tmp_path / "other")
