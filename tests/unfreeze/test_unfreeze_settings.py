"""What `unfreeze` takes, and what it refuses, with the setting to change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import fedgraft
from fedgraft.errors import FedGraftError
from fedgraft.models.unfreeze_settings import UnfreezeSettings, UnfreezeStep

IMAGES: dict[str, Any] = {
    "name": "tuned",
    "backbone": {"name": "timm:test_resnet", "weights": "random", "input_size": 32},
    "data": {
        "source": {"name": "synthetic", "kind": "images", "num_samples": 30, "num_classes": 3},
        "partition": {"name": "iid", "clients": 2},
    },
    "server": {"rounds": 1},
}


def refused(tmp_path: Path, **blocks: Any) -> str:
    """Return what is said of a scenario that can't run."""
    path = tmp_path / "tuned.yaml"
    path.write_text(yaml.safe_dump({**IMAGES, **blocks}))
    with pytest.raises(FedGraftError) as caught:
        fedgraft.run(path, out=tmp_path / "run")
    return str(caught.value)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ({"unfreeze": {}}, ["unfreeze.cut", "is missing, and so is schedule"]),
        ({"unfreeze": {"cut": "layer1", "schedule": [{"round": 2, "cut": "layer1"}]}}, ["came beside schedule"]),
        (
            {"unfreeze": {"schedule": [{"round": 2, "cut": "layer2"}, {"round": 2, "cut": "layer1"}]}},
            ["unfreeze.schedule[1].round", "came 2 after 2; expected later rounds"],
        ),
        ({"unfreeze": {"cut": "blocks.1"}}, ["unfreeze.cut", "came 'blocks.1'", "input, stem, layer1, layer2, layer3"]),
        ({"unfreeze": {"cut": "penultimate"}}, ["expected a cut before 'penultimate', where the head sits"]),
        (
            {"unfreeze": {"schedule": [{"round": 1, "cut": "layer2"}, {"round": 2, "cut": "layer3"}]}},
            ["unfreeze.schedule[1].cut", "came 'layer3' after 'layer2'", "nearer to the input"],
        ),
        (
            {"unfreeze": {"cut": "layer2", "method": "dora"}},
            ["came the name 'dora'", "full, bitfit, lora, ia3, adapter"],
        ),
        ({"unfreeze": {"cut": "layer2", "method": {"name": "lora", "rank": 0}}}, ["unfreeze.method.rank", "came 0"]),
        (
            {"unfreeze": {"cut": "layer2", "method": {"name": "lora", "targets": ["qkv"]}}},
            ["unfreeze.method.targets came 'qkv'", "past 'layer2'", "lora can adapt: conv1, conv2"],
        ),
        (
            {"unfreeze": {"cut": "layer2", "method": "lora", "pull": 0.1}},
            ["unfreeze.pull", "came 0.1 with method lora", "weight_decay"],
        ),
        (
            {"unfreeze": {"cut": "layer2", "method": "ia3", "batch_norm": "local"}},
            ["unfreeze.batch_norm", "came local with method ia3", "frozen"],
        ),
        (
            {
                "unfreeze": {
                    "schedule": [{"round": 1, "cut": "layer3"}, {"round": 2, "cut": "layer2"}],
                    "method": {"name": "lora", "targets": ["layer3.*"]},
                }
            },
            ["came 'layer3.*', of which there are none past 'layer3'"],
        ),
        ({"unfreeze": {"cut": "layer2"}, "strategy": "ridge"}, ["strategy", "came ridge", "unfreeze: null"]),
        ({"unfreeze": {"cut": "layer2"}, "strategy": "ditto"}, ["strategy", "came ditto", "unfreeze: null"]),
        ({"unfreeze": {"cut": "layer2"}, "calibrate": "ccvr"}, ["calibrate", "came ccvr"]),
        ({"unfreeze": {"cut": "layer2"}, "train": {"form": "dual"}}, ["train.form", "came dual", "set auto or loop"]),
        (
            {"unfreeze": {"schedule": [{"round": 3, "cut": "layer2"}]}, "strategy": "scaffold"},
            ["unfreeze.schedule", "moves on in round 3, but scaffold keeps", "from round 1 on"],
        ),
        (
            {"unfreeze": {"cut": "stem"}, "features": {"activations_limit_gb": 1e-6}},
            ["activations at 'stem': 30 samples", "more than features.activations_limit_gb", "nearer to the head"],
        ),
    ],
)
def test_refused_with_the_setting_to_change(blocks: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    text = refused(tmp_path, **blocks)
    assert all(word in text for word in words), text


def test_a_backbone_without_blocks(tmp_path: Path) -> None:
    source = {"name": "synthetic", "num_samples": 30, "num_classes": 3}
    data = {**IMAGES["data"], "source": source}
    text = refused(tmp_path, backbone="identity", data=data, unfreeze={"cut": "stem"})
    assert "identity, which has no blocks" in text


def test_the_cut_of_a_round() -> None:
    moving = UnfreezeSettings(schedule=(UnfreezeStep(round=3, cut="b"), UnfreezeStep(round=5, cut="a")))
    assert [moving.cut_at(number) for number in range(7)] == [None, None, None, "b", "b", "a", "a"]
    assert [UnfreezeSettings(cut="b").cut_at(number) for number in range(3)] == [None, "b", "b"]


def test_check_tells_what_is_trained_and_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: past layer3 of timm's test_resnet; the head has 3 outputs of its features, float32 travels."""
    import timm

    from fedgraft.cli import main

    path = tmp_path / "tuned.yaml"
    path.write_text(yaml.safe_dump({**IMAGES, "unfreeze": {"cut": "layer3"}}))
    monkeypatch.setattr(sys, "argv", ["fedgraft", "check", str(path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    model = timm.create_model("test_resnet", pretrained=False)
    numbers = sum(value.numel() for value in model.layer4.parameters())
    text = " ".join(capsys.readouterr().out.split())
    assert f"from round 1: {numbers:,} parameters past 'layer3' are trained with the head" in text
    assert f"{4 * (numbers + 3 * (model.num_features + 1)):,} bytes each way" in text
    assert "activations at 'layer3': 30 samples x" in text
