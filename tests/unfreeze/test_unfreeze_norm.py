"""Batch norm that stays with each client (FedBN), against a plain loop that keeps it by client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plain_fine_tuning import PlainFineTuning
from pydantic import ValidationError
from stopped_runs import stopped_in
from test_unfreeze_training import assert_same_model, trained, tuned

from fedgraft.conduct import run_resolved

LOCAL: dict[str, Any] = {
    "unfreeze.cut": "layer3",
    "unfreeze.rate": 0.5,
    "unfreeze.batch_norm": "local",
    "server.rounds": 3,
    "data.validation_fraction": 0.3,
}


def rate_of(name: str, _: int) -> float | None:
    return 1.0 if name.startswith("fc.") else 0.5 if name.startswith("layer4.") else None


def test_it_is_the_plain_loop_that_averages_all_but_batch_norm(weights: Path, tmp_path: Path) -> None:
    """The clients have 6, 16 and 12 training samples; batches of 8, and none of a single sample."""
    scenario = tuned(weights, **LOCAL)
    run = trained(scenario, tmp_path / "run")
    plain = PlainFineTuning(scenario, weights, rate_of, own_norm="layer4.")
    states = plain.rounds()
    assert not any(".bn" in name for name in run.head)
    assert any("layer4.0.conv1" in name for name in run.head)
    assert_same_model(run, states[-1])
    right = total = 0.0
    for position, client in enumerate(plain.federation.client_names):
        rows = plain.federation.validation.of(position)
        right += plain.accuracy(plain.state_of(client, states[-1]), rows) * len(rows)
        total += len(rows)
    assert run.summary["personal"]["accuracy"] == pytest.approx(right / total)
    moved = plain.own[plain.federation.client_names[0]]["layer4.0.bn1.running_mean"]
    assert (moved - plain.pretrained["layer4.0.bn1.running_mean"]).abs().max() > 1e-2
    assert run.summary["central"]["accuracy"] == pytest.approx(plain.accuracy(states[-1], plain.federation.test))


def test_what_clients_keep_survives_an_interruption(weights: Path, tmp_path: Path) -> None:
    scenario = tuned(weights, **LOCAL)

    with stopped_in(2):
        trained(scenario, tmp_path / "stopped")
    resumed = run_resolved(scenario, tmp_path / "stopped", resume=True, pictures=False)
    whole = trained(scenario, tmp_path / "whole")
    assert (resumed.directory / "head.safetensors").read_bytes() == (whole.directory / "head.safetensors").read_bytes()
    assert resumed.summary["personal"] == whole.summary["personal"]


@pytest.mark.parametrize(("strategy", "half"), [("fedprox", "proximal"), ("scaffold", "control_variate")])
def test_a_strategy_that_does_more_than_plain_steps_is_refused(strategy: str, half: str, weights: Path) -> None:
    text = rf"came local, but the clients of {strategy} do more .*\({half}\); set frozen"
    with pytest.raises(ValidationError, match=text) as caught:
        tuned(weights, **LOCAL, strategy=strategy)
    assert caught.value.errors()[0]["ctx"]["key"] == "unfreeze.batch_norm"
