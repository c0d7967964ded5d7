"""`describe`, `load` and `names`: what they answer, what they cost, what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from backbone_families import FAMILIES, images_for, settings_of

from fedgraft.errors import ModelError
from fedgraft.models.backbone import Backbone
from fedgraft.models.catalogue import names
from fedgraft.models.info import BackboneInfo
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.weights import weights_digest

SMALL = "torchvision:mobilenet_v3_small"


def test_describe_answers_for_the_default_backbone() -> None:
    info = describe(BackboneSettings())
    assert info.name == "bundled:efficientnet_lite0"
    assert info.cut == "penultimate"
    assert info.feature_dim == 1280
    assert info.preprocessing.input_size == 224
    assert info.num_parameters == 4_652_008  # 4.652 M in TensorFlow's table
    backbone = load(BackboneSettings())
    assert backbone.info == info == describe(BackboneSettings())
    assert info.weights_digest == weights_digest(backbone.state_arrays())


WARM = """
import sys, time, json
from fedgraft.models.registry import describe
from fedgraft.models.settings import BackboneSettings
start = time.perf_counter()
info = describe(BackboneSettings())
seconds = time.perf_counter() - start
heavy = [name for name in ("torch", "timm", "torchvision", "numpy", "huggingface_hub") if name in sys.modules]
print(json.dumps([info.as_json(), seconds, heavy]))
"""


def test_a_warm_describe_is_quick_and_imports_no_heavy_library() -> None:
    cold = describe(BackboneSettings())
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", WARM], check=True, capture_output=True).stdout)
        for _ in range(3)
    ]
    assert all(BackboneInfo.from_json(info) == cold for info, _, _ in runs)
    assert all(heavy == [] for _, _, heavy in runs)
    assert min(seconds for _, seconds, _ in runs) < 0.020


def test_a_damaged_or_foreign_cache_entry_is_made_again(own_caches: Path) -> None:
    settings = settings_of(SMALL)
    info = describe(settings)
    (entry,) = (own_caches / "fedgraft" / "backbones").glob("*.json")
    whole = entry.read_text()
    for text in (whole[:100], "[]", "null", whole.replace('"schema": 1', '"schema": 99'), whole.replace("cuts", "x")):
        entry.write_text(text)
        assert describe(settings) == info
        assert entry.read_text() == whole


def test_a_cache_that_cannot_be_written_does_not_stop_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert describe(settings_of(SMALL)).feature_dim == 1024


def test_random_weights_follow_their_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first, again, other = (load(settings_of(SMALL, random_seed=seed)).info for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)  # the state from which the draw starts doesn't matter either
    assert load(settings_of(SMALL)).info == first == again
    assert other.weights_digest != first.weights_digest
    assert other.key() != first.key()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "vit_b" in name else ()) for name in FAMILIES]
)
def test_weights_travel_as_arrays(name: str) -> None:
    """A host that has no weights gets them from the server: no file, no network, equal features."""
    sender = load(settings_of(name, random_seed=3))
    arrays = sender.state_arrays()
    assert weights_digest(arrays) == sender.info.weights_digest
    for array in arrays.values():
        array.flags.writeable = False  # as from a memory map
    receiver = load(settings_of(name, weights="pretrained"), arrays=arrays)
    assert receiver.info == sender.info
    images = images_for(sender, 1)
    assert torch.equal(receiver.features(images), sender.features(images))


def test_arrays_that_do_not_fit_are_counted_and_named() -> None:
    arrays = load(settings_of("timm:resnet18")).state_arrays()
    arrays["layer1.0.conv1.weight"] = np.zeros((3, 3), np.float32)
    arrays["fc.bias"] = np.zeros(10, np.float32)
    del arrays["conv1.weight"], arrays["bn1.bias"]
    arrays["intruder"] = np.zeros(1, np.float32)
    with pytest.raises(ModelError) as caught:
        load(settings_of("timm:resnet18"), arrays=arrays)
    text = str(caught.value)
    assert "the received weights of timm:resnet18 doesn't fit a model of 122 tensors" in text
    assert "2 missing (conv1.weight, bn1.bias)" in text
    assert "1 unexpected (intruder)" in text
    assert "2 ill-shaped (layer1.0.conv1.weight (3, 3) instead of (64, 64, 3, 3), fc.bias (10,)" in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda array: array.astype(np.float64), "1 ill-typed (conv1.weight torch.float64 instead of torch.float32)"),
        (lambda array: array * np.float32("nan"), "1 not finite (conv1.weight)"),
    ],
)
def test_arrays_of_another_type_or_not_finite_are_refused(change, expected: str) -> None:
    arrays = load(settings_of("timm:resnet18")).state_arrays()
    arrays["conv1.weight"] = change(arrays["conv1.weight"])
    with pytest.raises(ModelError) as caught:
        load(settings_of("timm:resnet18"), arrays=arrays)
    assert expected in str(caught.value)


def test_an_unknown_cut_lists_the_cuts_and_the_near_miss() -> None:
    with pytest.raises(ModelError) as caught:
        load(settings_of("timm:resnet18", cut="layer_3"))
    text = str(caught.value)
    assert "timm:resnet18 has no cut 'layer_3'" in text
    assert "its cuts are: stem, layer1, layer2, layer3, layer4, penultimate; did you mean 'layer3'?" in text


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("timm:resnet81", ("timm has no model 'resnet81'", "timm.list_models()", "did you mean 'resnet18'?")),
        ("timm:resnet18.a1_in2k", ("no weights 'a1_in2k' for resnet18", "a1_in1k, a2_in1k", "did you mean 'a1_in1k'?")),
        ("torchvision:resnet19", ("no image classifier 'resnet19'", "list_models", "did you mean 'resnet18'?")),
        ("torchvision:fcn_resnet50", ("no image classifier 'fcn_resnet50'",)),
    ],
)
def test_unknown_names_inside_a_library(name: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ModelError) as caught:
        describe(BackboneSettings(name=name, weights="random"))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "torchvision:vit_b_16", "input_size": 96}, "takes images of 224 px only, came input_size 96"),
        ({"name": "torchvision:inception_v3", "input_size": 32}, "can't take images of 32 px"),
        ({"name": "timm:resnet18", "pooling": "class_token"}, "can't pool 'penultimate' by class_token"),
        ({"name": "torchvision:swin_t", "input_size": 64, "pooling": "mean"}, "leave pooling at auto"),
    ],
)
def test_sizes_and_poolings_that_a_model_lacks(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        load(BackboneSettings.model_validate({"weights": "random", **changes}))
    assert expected in str(caught.value)


def test_images_of_another_shape_are_refused() -> None:
    backbone = load(settings_of(SMALL))
    with pytest.raises(ModelError, match=r"came images \(1, 3, 32, 32\); .* takes \(N, 3, 64, 64\)"):
        backbone.features(torch.zeros(1, 3, 32, 32))
    assert backbone.features(torch.zeros(0, 3, 64, 64)).shape == (0, 1024)


@pytest.mark.parametrize(
    ("name", "size", "feature_dim"),
    [
        ("torchvision:squeezenet1_1", 64, 512),  # its classifier is a convolution
        ("torchvision:googlenet", 64, 1024),
        ("timm:levit_128s", None, 384),  # two classifiers
        ("timm:mobilenetv3_small_050", 64, 1024),
        ("timm:swin_tiny_patch4_window7_224", None, 768),
    ],
)
def test_any_other_name_gives_the_penultimate_cut(name: str, size: int | None, feature_dim: int) -> None:
    backbone = load(BackboneSettings(name=name, weights="random", input_size=size))
    assert backbone.info.cuts[-1] == "penultimate"
    assert backbone.info.feature_dim == feature_dim
    images = images_for(backbone, 1)
    assert backbone.features(images).shape == (1, feature_dim)
    if "levit" not in name:
        logits = backbone.suffix("penultimate")(backbone.prefix("penultimate")(images))
        torch.testing.assert_close(logits, backbone.model(images))


def test_settings_change_the_preprocessing_and_the_key() -> None:
    own = load(settings_of(SMALL)).info
    assert own.preprocessing.mean == (0.485, 0.456, 0.406)  # ImageNet's, as torchvision publishes it
    assert own.preprocessing.interpolation == "bilinear"
    changed = load(settings_of(SMALL, normalization_mean=(0.0, 0.0, 0.0))).info
    assert changed.preprocessing.mean == (0.0, 0.0, 0.0)
    keys = {own.key(), changed.key(), load(settings_of(SMALL, cut="features.4")).info.key()}
    assert len(keys) == 3


def test_identity_passes_features_on() -> None:
    backbone = load(BackboneSettings(name="identity"))
    features = torch.randn(4, 7)
    assert torch.equal(backbone.features(features), features)
    assert backbone.info == describe(BackboneSettings(name="identity"))
    assert backbone.info.cuts == ("penultimate",)
    assert backbone.state_arrays() == {}


def test_the_listing_needs_no_library_and_tells_the_truth() -> None:
    """The table's sizes, dimensions and checkpoints are those of the libraries."""
    code = "import sys; from fedgraft.models.registry import names; names(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"False\n"
    import timm
    from torchvision import models

    rows = {row.name: row for row in names()}
    assert {"timm:<name>", "torchvision:<name>", "identity", *FAMILIES} <= rows.keys()
    for name, row in rows.items():
        source, _, model = name.partition(":")
        if row.input_size is None:
            continue
        if source == "pixels":
            info = describe(BackboneSettings(name="pixels"))
            assert (row.input_size, row.feature_dim) == (info.preprocessing.input_size, info.feature_dim)
        elif source == "torchvision":
            weights = models.get_model_weights(model).DEFAULT
            assert row.weights_from.endswith(weights.url.rpartition("/")[2])
            assert row.input_size == weights.transforms().crop_size[0]
        else:
            config = timm.get_pretrained_cfg(f"tf_{model}" if source == "bundled" else model)
            assert row.input_size == config.input_size[1]
            assert source == "bundled" or row.weights_from.endswith(config.hf_hub_id)
        if name in FAMILIES:
            assert row.feature_dim == describe(settings_of(name)).feature_dim
    assert rows["bundled:efficientnet_lite0"].installed
    assert not rows["torchvision:resnet18"].installed  # the test's own, empty caches


def test_a_backbone_can_be_copied_and_exported() -> None:
    import copy

    backbone = load(settings_of("timm:resnet18", cut="layer1"))
    assert isinstance(backbone, Backbone)
    images = images_for(backbone)
    features = backbone.features(images)
    assert torch.equal(copy.deepcopy(backbone).features(images), features)
    exported = torch.export.export(backbone, (images,)).module()
    torch.testing.assert_close(exported(images), features)


def test_telemetry_is_off() -> None:
    code = (
        "from fedgraft.models import download; download.no_telemetry(); "
        "from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_TELEMETRY"}
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)
    assert run.stdout == b"True\n"
