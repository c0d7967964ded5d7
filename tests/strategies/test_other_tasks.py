"""Every strategy of the registry with several labels a sample, and with real targets: it learns, or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_scenarios import small

from fedgraft.conduct import run_resolved
from fedgraft.errors import FedGraftError
from strategies.registry import STRATEGIES

PARAMETERS: dict[str, dict[str, Any]] = {
    "flower:<Class>": {"name": "flower:FedMedian"},
    "ridge": {"relative_penalties": [1e-2]},
}
SOURCE = {"name": "synthetic", "num_samples": 160, "num_features": 6, "num_clients": 8, "separation": 2.0}


@pytest.mark.parametrize("task", ["labels", "real"])
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "zero-shot"])
def test_learns_or_is_refused(name: str, task: str, tmp_path: Path) -> None:
    strategy = STRATEGIES[name]
    outputs = {"num_targets": 2} if task == "real" else {"num_classes": 3}
    scenario = small(
        **{
            "data.source": {**SOURCE, "task": task, **outputs},
            "data.partition": {"name": "natural"},
            "strategy": {"name": name, **PARAMETERS.get(name, {})},
            "head": {"name": "adapter", "rank": 4} if strategy.heads == ("adapter",) else "linear",
            "train.optimizer.learning_rate": 0.02,
            "server.rounds": 2,
        }
    )
    if task not in strategy.tasks:
        with pytest.raises(FedGraftError, match=f"{name} serves classes; the data's targets are {task}"):
            run_resolved(scenario, tmp_path / "run", pictures=False)
        return
    run = run_resolved(scenario, tmp_path / "run", pictures=False)  # they take most of a second
    part = "personal" if strategy.answer == "own" else "central"
    rows = [row for row in run.metrics if row["group"] == part]
    assert rows[-1]["loss"] < rows[0]["loss"]
    last = run.summary[part]
    assert ("root_mean_squared_error" in last) is (task == "real")
    assert ("subset_accuracy" in last) is (task == "labels")
