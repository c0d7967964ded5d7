"""Strategies on real digits of which some clients lie, from scenario to results, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedgraft
from clients.host import forget_hosts
from scenarios.schema import Scenario

ATTACK = {"name": "sign-flip", "scale": 5.0, "fraction": 0.2}
ROBUST: dict[str, dict[str, Any]] = {
    "median": {},
    "trimmed-mean": {"fraction": 0.25},
    "multi-krum": {"num_malicious": 3, "num_selected": 10},
    "geometric-median": {},
    "centred-clipping": {},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Scikit-learn's digits, whose 64 pixels are the features, at 15 clients."""
    from sklearn.datasets import load_digits

    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    features, labels = load_digits(return_X_y=True)
    np.savez(path, features=(features / 16).astype(np.float32), labels=labels)
    partition = {"name": "dirichlet", "clients": 15, "alpha": 1.0}
    yield {"source": {"name": "arrays", "path": str(path)}, "partition": partition, "test_fraction": 0.2}
    forget_hosts()


def run(data: dict[str, Any], out: Path, strategy: dict[str, Any], attack: dict[str, Any] | None) -> dict[str, Any]:
    """Return the summary of 8 rounds."""
    values = {
        "name": "digits",
        "data": data,
        "backbone": "identity",
        "train": {"local_epochs": 3, "optimizer": {"name": "sgd", "learning_rate": 0.2}},
        "server": {"rounds": 8},
        "strategy": strategy,
        "attack": attack,
    }
    fedgraft.run(Scenario.model_validate_json(json.dumps(values)), out=out)
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def test_fedavg_breaks_and_says_who_lied(data: dict[str, Any], tmp_path: Path) -> None:
    """The mean of 12 true updates u and 3 of -5 u has nothing left: `(12 - 15) / 15` of an update."""
    clean = run(data, tmp_path / "clean", {"name": "fedavg"}, None)
    broken = run(data, tmp_path / "broken", {"name": "fedavg"}, ATTACK)
    assert clean["central"]["accuracy"] > 0.85
    assert broken["central"]["accuracy"] < 0.3
    assert "attackers" not in clean
    assert broken["attack"] == {**ATTACK, "from_round": 1}
    assert len(broken["attackers"]) == 3
    text = (tmp_path / "broken" / "summary.txt").read_text()
    assert f"from round 1, by {', '.join(broken['attackers'])}\n" in text


@pytest.mark.parametrize("name", ROBUST)
def test_robust_strategies_stay_near_their_clean_run(name: str, data: dict[str, Any], tmp_path: Path) -> None:
    strategy = {"name": name, **ROBUST[name]}
    clean = run(data, tmp_path / "clean", strategy, None)["central"]["accuracy"]
    attacked = run(data, tmp_path / "attacked", strategy, ATTACK)["central"]["accuracy"]
    assert clean > 0.8
    assert attacked > clean - 0.05
