"""Stages that train blocks, against a schedule that unfreezes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_scenarios import changed
from test_unfreeze_training import BASE, trained

from fedgraft.errors import ScenarioError
from scenarios.loader import load_scenario
from scenarios.schema import Scenario


def tuned(weights: Path, folder: Path, **changes: Any) -> Scenario:
    backbone = {"name": "timm:test_resnet", "weights": str(weights), "input_size": 32}
    path = folder / f"scenario-{len(list(folder.iterdir()))}.yaml"
    path.write_text(yaml.safe_dump(changed({**BASE, "backbone": backbone}, changes)))
    return load_scenario(path)


def test_head_then_blocks_is_a_schedule_that_unfreezes_them(weights: Path, tmp_path: Path) -> None:
    schedule = [{"round": 2, "cut": "layer3"}, {"round": 3, "cut": "layer1"}]
    gradual = tuned(weights, tmp_path, **{"unfreeze.schedule": schedule, "server.rounds": 4})
    whole = trained(gradual, tmp_path / "whole")
    stages = [
        {"name": "head", "server": {"rounds": 1}},
        {"name": "last", "server": {"rounds": 1}, "unfreeze": {"cut": "layer3"}},
        {"name": "deeper", "server": {"rounds": 2}, "unfreeze": {"cut": "layer1"}},
    ]
    run = trained(tuned(weights, tmp_path, stages=stages), tmp_path / "run")
    assert (run.directory / "head.safetensors").read_bytes() == (whole.directory / "head.safetensors").read_bytes()
    for one, other in zip(run.metrics, whole.metrics, strict=True):
        assert one.get("accuracy", one.get("train_loss")) == other.get("accuracy", other.get("train_loss"))
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(run.model(pictures)["logits"], whole.model(pictures)["logits"])


def test_blocks_that_are_held_stay_as_they_are(weights: Path, tmp_path: Path) -> None:
    stages = [
        {"name": "blocks", "server": {"rounds": 1}, "unfreeze": {"cut": "layer3"}},
        {"name": "head", "server": {"rounds": 1}, "unfreeze": {"cut": "layer3", "rate": 0.0}},
    ]
    before = trained(tuned(weights, tmp_path, stages=stages[:1]), tmp_path / "before").head
    after = trained(tuned(weights, tmp_path, stages=stages), tmp_path / "after").head
    assert {name for name in after if np.array_equal(after[name], before[name])} == {
        name for name in after if name.startswith("backbone.")
    }


def test_cuts_go_nearer_to_the_input(weights: Path, tmp_path: Path) -> None:
    stages = [{"name": "deep", "unfreeze": {"cut": "layer2"}}, {"name": "less", "unfreeze": {"cut": "layer3"}}]
    with pytest.raises(ScenarioError) as caught:
        trained(tuned(weights, tmp_path, stages=stages), tmp_path / "run")
    (fault,) = caught.value.faults
    assert fault.key == "stages[1].unfreeze.cut"
    assert (
        "came 'layer3' after 'layer2' of a stage before; expected that, or a cut nearer to the input" in fault.message
    )
    stages[1]["unfreeze"] = {"cut": "layer9"}
    with pytest.raises(ScenarioError, match=r"stages\[1\].unfreeze.cut: came 'layer9'; expected a cut before"):
        trained(tuned(weights, tmp_path, stages=stages), tmp_path / "run")
