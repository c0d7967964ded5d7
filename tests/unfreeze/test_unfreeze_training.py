"""Blocks of the backbone trained with the head: the oracle is a plain loop over timm's own whole model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_fine_tuning import PlainFineTuning, State
from safetensors.numpy import load_file
from small_scenarios import changed

import fedgraft
from fedgraft.conduct import run_resolved
from scenarios.schema import Scenario

BASE: dict[str, Any] = {
    "name": "tuned",
    "data": {
        "source": {"name": "synthetic", "kind": "images", "image_size": 32, "num_samples": 70, "num_classes": 3},
        "partition": {"name": "sizes", "sizes": [9, 23, 17]},
        "test_fraction": 0.3,
    },
    "train": {"batch_size": 8, "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.5}},
    "server": {"rounds": 2, "checkpoint_every": 1},
    "runtime": {"name": "inline", "threads": 1},
}


def trained(scenario: Scenario, out: Path) -> fedgraft.Run:
    """Run a scenario without drawing pictures of it, which takes longer than the training."""
    return run_resolved(scenario, out, pictures=False, keep_data=True)


def tuned(weights: Path, **changes: Any) -> Scenario:
    backbone = {"name": "timm:test_resnet", "weights": str(weights), "input_size": 32}
    return Scenario.model_validate_json(json.dumps(changed({**BASE, "backbone": backbone}, changes)))


def assert_same_model(run: fedgraft.Run, state: State, tolerance: float = 1e-5) -> None:
    """Compare a run's head and blocks with a plain loop's state, array by array: max|a - b| / max|b|."""
    for name, value in run.head.items():
        full = name.removeprefix("backbone.") if name.startswith("backbone.") else f"fc.{name}"
        expected = state[full].numpy()
        assert np.abs(value - expected).max() <= tolerance * np.abs(expected).max(), name


@pytest.mark.parametrize("cut", ["layer2", "input"])
def test_fedavg_of_head_and_blocks_is_the_plain_loop_over_the_whole_model(
    cut: str, weights: Path, tmp_path: Path
) -> None:
    scenario = tuned(weights, **{"unfreeze.cut": cut, "unfreeze.rate": 0.5})
    run = trained(scenario, out=tmp_path / "run")
    past = ("layer3", "layer4") if cut == "layer2" else ("",)

    def rate_of(name: str, _: int) -> float | None:
        return 1.0 if name.startswith("fc.") else 0.5 if name.startswith(past) else None

    plain = PlainFineTuning(scenario, weights, rate_of)
    states = plain.rounds()
    arrays = {name.removeprefix("backbone.") for name in run.head if name.startswith("backbone.")}
    assert arrays == {
        name for name, _ in plain.model.named_parameters() if name.startswith(past) and not name.startswith("fc.")
    }
    assert_same_model(run, states[-1])
    for name in ("layer3.0.conv1.weight", "layer3.0.bn1.weight"):  # it was training indeed
        assert (states[-1][name] - states[0][name]).abs().max() > 1e-3
    rows = [row for row in run.metrics if row["group"] == "central"]
    expected = [plain.accuracy(state, plain.federation.test) for state in states]
    assert [row["accuracy"] for row in rows] == pytest.approx(expected)
    assert all(
        row["bytes_up"] > 4 * sum(value.size for value in run.head.values())
        for row in run.metrics
        if row["group"] == "train"
    )


def test_the_trained_model_predicts_and_exports_whole(weights: Path, tmp_path: Path) -> None:
    """Its outputs are those of timm's model with the run's arrays in place of the pretrained ones."""
    import timm

    from fedgraft.trained import load_safetensors

    run = trained(tuned(weights, **{"unfreeze.cut": "layer1"}), out=tmp_path / "run")
    model = timm.create_model("test_resnet", pretrained=False, checkpoint_path=str(weights))
    model.reset_classifier(3)
    state = model.state_dict()
    for name, value in run.head.items():
        full = name.removeprefix("backbone.") if name.startswith("backbone.") else f"fc.{name}"
        state[full].copy_(torch.from_numpy(value))
    model.eval()
    pictures = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(model.pretrained_cfg[part])[:, None, None] for part in ("mean", "std"))
    with torch.no_grad():
        expected = model((pictures - mean) / std)
        came = run.model(pictures)["logits"]
        run.export(tmp_path / "model.safetensors")
        again = load_safetensors(tmp_path / "model.safetensors")(pictures)["logits"]
    torch.testing.assert_close(came, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(again, came)
    assert run.model.backbone.info.weights_digest != run.summary["weights_digest"]


SLOWLY = ("fedprox", "feddyn", "fednova", "fedsam", "fedadam", "geometric-median", "flower:FedAvg")


@pytest.mark.parametrize(
    "strategy", ["fedavgm", "scaffold", "median", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY)]
)
def test_strategies_over_named_arrays_train_blocks(strategy: str, weights: Path, tmp_path: Path) -> None:
    """Blocks move, the loss falls, and whatever is frozen is not among the arrays."""
    changes = {"unfreeze.cut": "layer3", "strategy": strategy, "server.rounds": 3, "train.local_epochs": 2}
    run = trained(tuned(weights, **changes), out=tmp_path / "run")
    start = load_file(weights)
    moved = {name.removeprefix("backbone."): value for name, value in run.head.items() if name.startswith("backbone.")}
    assert all(name.startswith("layer4.") for name in moved)
    assert all(np.abs(value - start[name]).max() > 0 for name, value in moved.items())
    losses = [row["train_loss"] for row in run.metrics if row["group"] == "train"]
    assert losses[-1] < losses[0]


def test_threads_and_hosts_change_no_bit(weights: Path, tmp_path: Path) -> None:
    scenario = tuned(weights, **{"unfreeze.cut": "layer2", "shards": 2})
    one = trained(scenario, out=tmp_path / "one")
    two = trained(tuned(weights, **{"unfreeze.cut": "layer2", "shards": 2, "runtime.threads": 2}), out=tmp_path / "two")
    assert (one.directory / "head.safetensors").read_bytes() == (two.directory / "head.safetensors").read_bytes()
