"""Cuts, prefixes, suffixes, features and frozenness of every registered family.

The oracle is the library itself: the model's own forward pass, and its own verbs for the features.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from backbone_families import FAMILIES, images_for, random_backbone
from torch import nn

from fedgraft.errors import ModelError
from fedgraft.models.backbone import thaw

every_family = pytest.mark.parametrize("name", FAMILIES)
# 86 M parameters at 224 px: in the quick run it takes part in the first two tests only
every_family_slowly = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if "vit_b" in name else ()) for name in FAMILIES]
)


@every_family
def test_cuts_are_listed_from_input_to_output(name: str) -> None:
    assert random_backbone(name).info.cuts == (*FAMILIES[name][2], "penultimate")


@every_family
def test_suffix_of_prefix_is_the_whole_model(name: str) -> None:
    backbone = random_backbone(name)
    images = images_for(backbone)
    with torch.inference_mode():
        whole = backbone.model(images)
        middle = FAMILIES[name][1]
        for cut in ("penultimate", middle) if "vit_b" in name else backbone.info.cuts:
            logits = backbone.suffix(cut)(backbone.prefix(cut)(images))
            assert whole.abs().max() > 0.1
            assert (logits - whole).abs().max() <= 1e-5 * whole.abs().max(), cut


@every_family
def test_prefix_and_suffix_share_out_every_tensor_once_under_its_full_name(name: str) -> None:
    backbone = random_backbone(name)
    state = backbone.model.state_dict()
    for cut in backbone.info.cuts:
        before, after = backbone.prefix(cut).state_dict(), backbone.suffix(cut).state_dict()
        assert not before.keys() & after.keys()
        assert before.keys() | after.keys() == state.keys()
        assert all(value.data_ptr() == state[key].data_ptr() for key, value in (before | after).items())


def _own_penultimate(name: str, model: Any, images: torch.Tensor) -> torch.Tensor:
    """Return what the classifier is given, by the library's own means."""
    if not name.startswith("torchvision:"):
        features: torch.Tensor = model.forward_head(model.forward_features(images), pre_logits=True)
        return features
    bare = copy.deepcopy(model)
    heads = {"resnet18": "fc", "vit_b_16": "heads"}.get(name.partition(":")[2])
    if heads:
        setattr(bare, heads, nn.Identity())
    else:
        bare.classifier[-1] = nn.Identity()
    return bare(images)


@every_family_slowly
def test_penultimate_features_are_what_the_own_classifier_sees(name: str) -> None:
    backbone = random_backbone(name)
    images = images_for(backbone)
    features = backbone.features(images)
    with torch.inference_mode():
        expected = _own_penultimate(name, backbone.model, images)
    assert features.shape == (2, backbone.info.feature_dim)
    assert features.dtype == torch.float32
    assert not features.is_inference()  # a head can be trained on them
    torch.testing.assert_close(features, expected.clone(), rtol=1e-5, atol=1e-6)


@every_family_slowly
def test_nothing_wakes_a_frozen_backbone(name: str) -> None:
    backbone = random_backbone(name)
    before = backbone.state_arrays()
    backbone.train()
    nn.Sequential(backbone, nn.Linear(1, 1)).train()
    backbone.model.train()
    for part in backbone.model.modules():
        part.train()
        assert not part.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    cut = FAMILIES[name][1]
    backbone.prefix(cut).train()
    images = images_for(backbone)
    first = backbone.features(images)
    head = nn.Linear(backbone.info.feature_dim, 3)
    head(first).sum().backward()
    backbone.suffix(cut)(backbone.prefix(cut)(images))
    assert torch.equal(backbone.features(images), first)  # no dropout, no stochastic depth
    after = backbone.state_arrays()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)  # batch-norm statistics too


def test_a_thawed_copy_of_a_suffix_trains_and_the_backbone_does_not() -> None:
    backbone = random_backbone("timm:resnet18")
    before = backbone.state_arrays()
    images = images_for(backbone)
    suffix = thaw(copy.deepcopy(backbone.suffix("layer3")))
    suffix.train()
    names = [name for name, _ in suffix.named_parameters()]
    assert names[0] == "layer4.0.conv1.weight"
    assert names[-1] == "fc.bias"
    optimizer = torch.optim.SGD(suffix.parameters(), lr=0.1)
    suffix(backbone.prefix("layer3")(images)).square().mean().backward()
    optimizer.step()
    trained = suffix.state_dict()
    assert not torch.equal(trained["layer4.0.conv1.weight"], torch.from_numpy(before["layer4.0.conv1.weight"]))
    assert not torch.equal(trained["layer4.0.bn1.running_mean"], torch.from_numpy(before["layer4.0.bn1.running_mean"]))
    assert all(np.array_equal(value, backbone.state_arrays()[key]) for key, value in before.items())


def test_a_functional_call_of_a_suffix_takes_other_parameters() -> None:
    backbone = random_backbone("timm:vit_tiny_patch16_224")
    suffix = backbone.suffix("blocks.7")
    activation = backbone.prefix("blocks.7")(images_for(backbone))
    zeros = {name: torch.zeros_like(value) for name, value in suffix.named_parameters()}
    assert torch.equal(torch.func.functional_call(suffix, zeros, (activation,)), torch.zeros(2, 1000))


def test_pooling_at_a_block_cut_by_hand() -> None:
    """Space: the plain mean of each channel. Tokens: the first one, or the mean of the 16 patches after it."""
    from backbone_families import settings_of

    from fedgraft.models.registry import load

    spatial = load(settings_of("timm:resnet18", cut="layer2"))
    images = images_for(spatial)
    activation = spatial.prefix("layer2")(images)
    assert activation.shape == (2, 128, 8, 8)
    torch.testing.assert_close(spatial.features(images), activation.flatten(2).sum(2) / 64)

    name = "timm:vit_tiny_patch16_224"
    own = load(settings_of(name, cut="blocks.7"))
    tokens = own.prefix("blocks.7")(images)
    assert tokens.shape == (2, 17, 192)
    assert own.info.pooling == "class_token"
    torch.testing.assert_close(own.features(images), tokens[:, 0])
    mean = load(settings_of(name, cut="blocks.7", pooling="mean"))
    torch.testing.assert_close(mean.features(images), tokens[:, 1:].sum(1) / 16)
    assert mean.info.key() != own.info.key()

    end = load(settings_of(name, pooling="mean"))
    normalised = end.model.forward_features(images)
    torch.testing.assert_close(end.features(images), normalised[:, 1:].sum(1) / 16)


@every_family_slowly
def test_blocks_past_any_cut_give_the_features_of_the_whole(name: str) -> None:
    backbone = random_backbone(name)
    images = images_for(backbone)
    whole = backbone.features(images)
    cuts = ("input", *backbone.info.cuts[:-1])
    classifier = len(list(backbone.suffix("penultimate").parameters()))
    for cut in ("input", FAMILIES[name][1]) if "vit_b" in name else cuts:
        if cut != "input" and len(list(backbone.suffix(cut).parameters())) == classifier:
            with pytest.raises(ModelError, match=f"between '{cut}' and 'penultimate' .* there is nothing to train"):
                backbone.blocks(cut)
            continue
        blocks = backbone.blocks(cut)
        activations = blocks.activations(images)
        assert activations.shape == (2, *blocks.activation_shape)
        features = blocks.features({key: torch.from_numpy(v) for key, v in blocks.pretrained.items()}, activations)
        assert (features - whole).abs().max() <= 1e-5 * whole.abs().max(), cut


@every_family_slowly
def test_every_array_of_the_blocks_takes_part(name: str) -> None:
    """Also bare ones, such as a class token: each has a gradient that is not zero, and the model's own have none."""
    backbone = random_backbone(name)
    images = images_for(backbone)
    before = backbone.state_arrays()
    blocks = backbone.blocks("input")
    own = {key: torch.from_numpy(value).requires_grad_() for key, value in blocks.pretrained.items()}
    features = blocks.features(own, images)
    (features * torch.randn(features.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in own.values())
    classifier = {key for key, _ in backbone.suffix("penultimate").named_parameters()}
    assert {key.removeprefix("backbone.") for key in own} | classifier == {
        key for key, _ in backbone.model.named_parameters()
    }
    assert all(np.array_equal(value, before[key]) for key, value in backbone.state_arrays().items())
