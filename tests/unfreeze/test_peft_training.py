"""Rounds of LoRA, IA3 and adapters: the oracle is a plain loop over timm's whole model with peft's own layers in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from plain_fine_tuning import PlainFineTuning, State, write_weights
from small_scenarios import changed
from stopped_runs import stopped_in
from test_unfreeze_training import trained

import fedgraft
from fedgraft.conduct import run_resolved
from fedgraft.models.registry import load
from fedgraft.trained import load_safetensors
from scenarios.schema import Scenario

BASE: dict[str, Any] = {
    "name": "adapted",
    "data": {
        "source": {"name": "synthetic", "kind": "images", "image_size": 32, "num_samples": 70, "num_classes": 3},
        "partition": {"name": "sizes", "sizes": [9, 23]},
        "test_fraction": 0.3,
    },
    "train": {"batch_size": 8, "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.5}},
    "unfreeze": {"cut": "blocks.3"},
    "server": {"rounds": 2, "checkpoint_every": 1},
    "runtime": {"name": "inline", "threads": 1},
}
LORA = {"name": "lora", "rank": 2, "alpha": 6.0, "targets": ["qkv", "fc2"]}
IA3 = {"name": "ia3"}
ADAPTER = {"name": "adapter", "width": 4}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors", "test_vit", img_size=32)


def adapted(weights: Path, method: Any, **changes: Any) -> Scenario:
    backbone = {"name": "timm:test_vit", "weights": str(weights), "input_size": 32}
    parts = changed({**BASE, "backbone": backbone}, {"unfreeze.method": method, **changes})
    return Scenario.model_validate_json(json.dumps(parts))


def with_peft(scenario: Scenario, weights: Path, config: peft.PeftConfig) -> PlainFineTuning:
    """Return the plain loop over the whole model with peft's layers, which start where the run's do."""
    plain = PlainFineTuning(scenario, weights, lambda name, _: 1.0 if is_trained(name) else None, img_size=32)
    peft.inject_adapter_in_model(config, plain.model)
    assert scenario.unfreeze is not None
    blocks = load(scenario.backbone).blocks("blocks.3", scenario.unfreeze)
    with torch.no_grad():
        for name, value in blocks.start(scenario.seed).items():
            plain.model.get_parameter(full_name(name)).copy_(torch.from_numpy(value))
    return plain


def is_trained(name: str) -> bool:
    return name.startswith("head.") or ".lora_" in name or ".ia3_l" in name


def full_name(name: str) -> str:
    """Return what peft calls an array in the model."""
    name = name.removeprefix("backbone.")
    return f"{name}.default" if name.endswith("ia3_l") else f"{name.removesuffix('.weight')}.default.weight"


def assert_same(run: fedgraft.Run, state: State) -> None:
    for name, value in run.head.items():
        expected = state[full_name(name) if name.startswith("backbone.") else f"head.{name}"].numpy()
        assert np.abs(value - expected).max() <= 1e-5 * np.abs(expected).max(), name


@pytest.mark.parametrize(
    ("method", "config"),
    [
        (LORA, peft.LoraConfig(r=2, lora_alpha=6, target_modules=r"blocks\.[45]\.(attn\.qkv|mlp\.fc2)")),
        (IA3, peft.IA3Config(target_modules=r"blocks\.[45]\.(attn\.qkv|mlp\.fc2)", feedforward_modules=r".*fc2")),
    ],
    ids=["lora", "ia3"],
)
def test_rounds_are_the_plain_loop_with_peft_in_the_whole_model(
    method: Any, config: peft.PeftConfig, weights: Path, tmp_path: Path
) -> None:
    """FedAvg of two clients of 9 and 23 samples; only the head and the new arrays travel."""
    scenario = adapted(weights, method)
    run = trained(scenario, tmp_path / "run")
    plain = with_peft(scenario, weights, config)
    states = plain.rounds()
    came = {full_name(name) for name in run.head if name.startswith("backbone.")}
    assert came == {name for name in states[0] if is_trained(name) and not name.startswith("head.")}
    assert_same(run, states[-1])
    assert all((states[-1][name] - states[0][name]).abs().max() > 1e-4 for name in came)
    rows = [row for row in run.metrics if row["group"] == "central"]
    expected = [plain.accuracy(state, plain.federation.test) for state in states]
    assert [row["accuracy"] for row in rows] == pytest.approx(expected)


@pytest.mark.parametrize("method", [LORA, IA3, ADAPTER], ids=["lora", "ia3", "adapter"])
def test_the_exported_model_is_the_trained_one(method: Any, weights: Path, tmp_path: Path) -> None:
    """Its outputs are those with the run's arrays beside the frozen weights, also from a file of tensors alone."""
    scenario = adapted(weights, method)
    run = trained(scenario, tmp_path / "run")
    assert scenario.unfreeze is not None
    backbone = load(scenario.backbone)
    blocks = backbone.blocks("blocks.3", scenario.unfreeze)
    pictures = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    normalised = run.model.scale * pictures + run.model.shift
    arrays = {name: torch.from_numpy(value) for name, value in run.head.items()}
    features = blocks.features(arrays, blocks.activations(normalised))
    expected = features @ arrays["weight"].T + arrays["bias"]
    with torch.no_grad():
        came = run.model(pictures)["logits"]
        run.export(tmp_path / "model.safetensors")
        again = load_safetensors(tmp_path / "model.safetensors")(pictures)["logits"]
    assert (came - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(again, came)
    assert run.model.backbone.info.weights_digest != run.summary["weights_digest"]


@pytest.mark.slow
@pytest.mark.parametrize("method", [LORA, IA3, ADAPTER], ids=["lora", "ia3", "adapter"])
def test_other_runtimes_give_the_outputs_of_the_trained_model(method: Any, weights: Path, tmp_path: Path) -> None:
    run = trained(adapted(weights, method), tmp_path / "run")
    for file in ("model.onnx", "model.pt2"):
        report = run.export(tmp_path / file)
        assert report.largest_difference is not None
        assert report.largest_difference <= 1e-5


def test_what_travels_and_what_full_fine_tuning_would_take(weights: Path, tmp_path: Path) -> None:
    """By hand, for width 64, MLP 192, 3 classes: two blocks, the last norm, and LoRA of rank 2 in four layers."""
    run = trained(adapted(weights, LORA), tmp_path / "run")
    head = 3 * 64 + 3
    lora = 2 * (2 * (64 + 192) + 2 * (192 + 64))
    block = 4 * 64 + (192 * 64 + 192) + (64 * 64 + 64) + (192 * 64 + 192) + (64 * 192 + 64)
    tuned = run.summary["tuned"]
    assert tuned == {
        "method": "lora",
        "cut": "blocks.3",
        "num_trained": lora,
        "bytes": 4 * (lora + head),
        "full_bytes": 4 * (2 * block + 2 * 64 + head),
    }
    sizes = [row["bytes_up"] for row in run.metrics if row["group"] == "train"]
    assert all(4 * (lora + head) < size < 4 * (lora + head) + 8000 for size in sizes)
    text = " ".join((run.directory / "summary.txt").read_text().split())
    assert f"bytes of updates {tuned['bytes']:,} each way a shard and round; full fine-tuning past 'blocks.3'" in text


SLOWLY = ("fedprox", "feddyn", "fednova", "fedsam", "fedadam", "geometric-median", "flower:FedAvg")


@pytest.mark.parametrize(
    "strategy", ["fedavgm", "scaffold", "median", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWLY)]
)
def test_strategies_over_named_arrays_train_adapters(strategy: str, weights: Path, tmp_path: Path) -> None:
    changes = {
        "strategy": strategy,
        "server.rounds": 4,
        "train.local_epochs": 2,
        "train.optimizer.learning_rate": 0.02,
    }
    run = trained(adapted(weights, ADAPTER, **changes), tmp_path / "run")
    names = [name for name in run.head if name.startswith("backbone.")]
    assert len(names) == 2 * 2 * 4
    assert all(".adapter." in name and np.abs(run.head[name]).max() > 0 for name in names)
    losses = [row["train_loss"] for row in run.metrics if row["group"] == "train"]
    assert losses[-1] < losses[0]


def test_threads_change_no_bit(weights: Path, tmp_path: Path) -> None:
    runs = [
        trained(adapted(weights, LORA, **{"shards": 2, "runtime.threads": threads}), tmp_path / str(threads))
        for threads in (1, 2)
    ]
    one, two = ((run.directory / "head.safetensors").read_bytes() for run in runs)
    assert one == two


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ray_gives_the_same_bits(weights: Path, tmp_path: Path) -> None:
    inline = trained(adapted(weights, LORA, shards=2), tmp_path / "inline")
    runtime = {"name": "ray", "hosts": 2, "threads": 1}
    on_ray = trained(adapted(weights, LORA, shards=2, runtime=runtime), tmp_path / "ray")
    assert (inline.directory / "head.safetensors").read_bytes() == (on_ray.directory / "head.safetensors").read_bytes()


def test_layers_join_by_a_schedule_and_a_stopped_run_goes_on(weights: Path, tmp_path: Path) -> None:
    """Layers of a block join when its round comes, where they change nothing; then a stop, and the same bits."""
    steps = [{"round": 2, "cut": "blocks.4"}, {"round": 3, "cut": "blocks.3"}]
    scenario = adapted(
        weights, LORA, **{"unfreeze": {"schedule": steps, "method": LORA}, "server.rounds": 4, "strategy": "fedavgm"}
    )

    with stopped_in(3):
        trained(scenario, tmp_path / "stopped")
    resumed = run_resolved(scenario, tmp_path / "stopped", resume=True, pictures=False)
    whole = trained(scenario, tmp_path / "whole")
    assert (resumed.directory / "head.safetensors").read_bytes() == (whole.directory / "head.safetensors").read_bytes()
    sizes = [row["bytes_up"] for row in whole.metrics if row["group"] == "train"]
    assert sizes[0] < sizes[1] < sizes[2]
    assert sizes[2] == pytest.approx(sizes[3], abs=100)
