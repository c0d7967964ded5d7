"""The shipped scenarios, made small: a closed form, then the head alone, then blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgraft.api import resolve
from fedgraft.conduct import run_resolved

SMALLER = (
    "backbone.input_size=32",
    "data.partition.clients=3",
    "data.max_samples_per_client=24",
    "evaluation.central=false",
    "server.rounds=3",
    "unfreeze.schedule[0].round=2",
    "unfreeze.schedule[1].round=3",
)


@pytest.mark.slow
def test_the_shipped_scenario(tmp_path: Path) -> None:
    run = run_resolved(resolve("fine-tune", SMALLER), tmp_path / "run", pictures=False)
    rows = {group: [row for row in run.metrics if row["group"] == group] for group in ("init", "train", "validation")}
    assert [row["strategy"] for row in rows["init"]] == ["ridge"]
    sizes = [row["bytes_up"] for row in rows["train"]]
    assert sizes[0] < sizes[1] < sizes[2]
    blocks = {".".join(name.split(".")[1:3]) for name in run.head if name.startswith("backbone.")}
    assert {"blocks.6", "conv_head.weight", "bn2.weight"} <= blocks
    assert "blocks.5" not in blocks
    assert run.summary["validation"]["accuracy"] > 0.3  # of ten classes, from few samples


@pytest.mark.slow
def test_the_shipped_scenario_of_stages(tmp_path: Path) -> None:
    smaller = (*SMALLER[:4], "stages.1.server.rounds=1", "stages.2.server.rounds=1")
    run = run_resolved(resolve("staged", smaller), tmp_path / "run", pictures=False)
    first, head, blocks = run.summary["stages"]
    assert [stage["strategy"] for stage in (first, head, blocks)] == ["ridge", "fedavg", "fedavg"]
    assert head["bytes_up"] < blocks["bytes_up"] < first["bytes_up"]
    assert blocks["validation"] == run.summary["validation"]
    assert run.summary["validation"]["accuracy"] > 0.3  # of ten classes, from few samples
