"""Gradual unfreezing, rates by block, warm-up and L2-SP, against a plain loop; and going on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_fine_tuning import PlainFineTuning
from stopped_runs import stopped_in
from test_unfreeze_training import assert_same_model, trained, tuned

from fedgraft.conduct import run_resolved

SCHEDULE: dict[str, Any] = {
    "unfreeze.schedule": [{"round": 2, "cut": "layer3"}, {"round": 4, "cut": "layer1"}],
    "unfreeze.rate": 0.4,
    "unfreeze.decay": 0.5,
    "unfreeze.warmup_rounds": 1,
    "server.rounds": 5,
}


def rate_of(name: str, number: int) -> float | None:
    """Return the rate of `SCHEDULE`: halved with each block further down, and in a block's first round of training.

    From round 2 layer4 is trained, from round 4 layer3 and layer2 as well.
    """
    if name.startswith("fc."):
        return 1.0
    since = 2 if name.startswith("layer4.") else 4
    if number < since or not name.startswith(("layer2.", "layer3.", "layer4.")):
        return None
    below = 4 - int(name[5])  # blocks between it and the head
    return 0.4 * 0.5**below * (0.5 if number == since else 1.0)


def test_a_schedule_is_the_plain_loop_with_its_rates(weights: Path, tmp_path: Path) -> None:
    scenario = tuned(weights, **SCHEDULE)
    run = trained(scenario, out=tmp_path / "run")
    states = PlainFineTuning(scenario, weights, rate_of).rounds()
    assert_same_model(run, states[-1])
    assert {name.split(".")[1] for name in run.head if name.startswith("backbone.")} == {"layer2", "layer3", "layer4"}
    sizes = [row["bytes_up"] for row in run.metrics if row["group"] == "train"]
    assert sizes[0] < sizes[1] < sizes[3]
    assert sizes[1] == pytest.approx(sizes[2], abs=100)


@pytest.mark.parametrize("stop_in", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_stopped_in_a_round_that_unfreezes_and_resumed_equals_undisturbed(
    stop_in: int, weights: Path, tmp_path: Path
) -> None:
    """With momentum on the server, whose state grows in these rounds; checkpoints are written after each."""
    scenario = tuned(weights, **SCHEDULE, strategy="fedavgm")

    with stopped_in(stop_in):
        trained(scenario, tmp_path / "stopped")
    resumed = run_resolved(scenario, tmp_path / "stopped", resume=True, pictures=False)
    whole = trained(scenario, tmp_path / "whole")
    assert (resumed.directory / "head.safetensors").read_bytes() == (whole.directory / "head.safetensors").read_bytes()
    assert [row["round"] for row in resumed.metrics] == [row["round"] for row in whole.metrics]


def test_a_run_that_unfreezing_harms_ends_with_the_head_before_it(weights: Path, tmp_path: Path) -> None:
    """The best head is that of round 1, which knows no blocks; round 2 lets them train far too fast."""
    clipped = {"train.clip_norm": 0.2}
    harm = {"unfreeze.schedule": [{"round": 2, "cut": "layer3"}], "unfreeze.rate": 60.0, "server.patience": 2}
    run = trained(tuned(weights, **clipped, **harm, **{"server.rounds": 8}), tmp_path / "run")
    assert run.summary["best_round"] == 1
    head_alone = trained(tuned(weights, **clipped, **{"server.rounds": 1}), tmp_path / "alone")
    assert set(run.head) == {"weight", "bias"}
    assert all(np.array_equal(value, head_alone.head[name]) for name, value in run.head.items())


def test_l2_sp_is_a_term_of_the_loss(weights: Path, tmp_path: Path) -> None:
    """`pull / 2 |w - w_pretrained|^2`, written into the plain loop's loss; momentum sees it as any gradient."""
    scenario = tuned(weights, **{"unfreeze.cut": "layer3", "unfreeze.pull": 0.7, "unfreeze.rate": 1.0})
    run = trained(scenario, out=tmp_path / "run")

    def rate(name: str, _: int) -> float | None:
        return 1.0 if name.startswith(("fc.", "layer4.")) else None

    assert_same_model(run, PlainFineTuning(scenario, weights, rate, pull=0.7).rounds()[-1])
    free = trained(tuned(weights, **{"unfreeze.cut": "layer3", "unfreeze.rate": 1.0}), out=tmp_path / "free")
    name = "backbone.layer4.0.conv1.weight"
    assert np.abs(run.head[name] - free.head[name]).max() > 1e-4
