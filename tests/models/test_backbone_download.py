"""Pretrained weights that aren't bundled: taken from the libraries' own caches, or a clear word without a network."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedgraft.errors import ModelError
from fedgraft.models.catalogue import names
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "torchvision:resnet18",
            ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "torch/hub/checkpoints"),
        ),
        ("timm:resnet18", ("https://huggingface.co/timm/resnet18.a1_in1k", "`hf download timm/resnet18.a1_in1k`")),
    ],
)
def test_without_a_network_it_says_at_once_what_to_do(
    name: str, parts: tuple[str, ...], own_caches: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    describe(BackboneSettings(name=name, weights="random", input_size=64))  # the imports
    start = time.perf_counter()
    with pytest.raises(ModelError) as caught:
        describe(BackboneSettings(name=name))
    assert time.perf_counter() - start < 3
    text = str(caught.value)
    assert f"the pretrained weights of {name} aren't on this machine" in text
    assert all(part in text for part in parts)
    assert "(<urlopen error [Errno -3] Temporary failure in name resolution>)" in text
    assert str(own_caches) in text  # where to put them
    assert "weights: /path/to/file.safetensors" in text
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "Retrying" not in captured.err


def test_timm_models_without_published_weights() -> None:
    with pytest.raises(
        ModelError, match="timm publishes no weights for vit_base_patch32_plus_256; use `weights: random`"
    ):
        describe(BackboneSettings(name="timm:vit_base_patch32_plus_256"))


def random_state(name: str, size: int | None = 64) -> dict[str, torch.Tensor]:
    backbone = load(BackboneSettings(name=name, weights="random", input_size=size, random_seed=9))
    return {key: torch.from_numpy(value) for key, value in backbone.state_arrays().items()}


def test_torchvision_weights_that_torch_hub_has(own_caches: Path) -> None:
    """The file lies where torch hub keeps it; torchvision's own loading code does the rest."""
    state = random_state("torchvision:resnet18")
    file = own_caches / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    backbone = load(BackboneSettings(name="torchvision:resnet18", input_size=64))
    assert all(np.array_equal(value, state[key].numpy()) for key, value in backbone.state_arrays().items())
    assert {row.name: row.installed for row in names()}["torchvision:resnet18"]
    file.write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"resnet18-f37072fd.pth is damaged; delete it"):
        describe(BackboneSettings(name="torchvision:resnet18", input_size=64))


@pytest.mark.parametrize(
    ("name", "repository", "size"),
    [
        ("timm:resnet18", "timm--resnet18.a1_in1k", 64),
        ("timm:vit_tiny_patch16_224", "timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k", None),
    ],
)
def test_timm_weights_that_the_hub_cache_has(name: str, repository: str, size: int | None, own_caches: Path) -> None:
    """A cache laid out as the Hugging Face hub lays it out; timm's own loading code does the rest."""
    state = random_state(name, size)
    folder = own_caches / "huggingface" / "hub" / f"models--{repository}"
    revision = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    snapshot = folder / "snapshots" / revision
    snapshot.mkdir(parents=True)
    save_file(state, snapshot / "model.safetensors")
    backbone = load(BackboneSettings(name=name, input_size=size))
    assert all(np.array_equal(value, state[key].numpy()) for key, value in backbone.state_arrays().items())
    assert {row.name: row.installed for row in names()}[name]
    if size is None:  # the position embedding is resampled to other sizes
        assert load(BackboneSettings(name=name, input_size=96)).info.feature_dim == 192
