"""The table of families with block cuts: every row is tested for every promise of the contract."""

from __future__ import annotations

import functools

import torch

from fedgraft.models.backbone import Backbone
from fedgraft.models.registry import load
from fedgraft.models.settings import BackboneSettings

# name: (input size that keeps the test quick, a cut in the middle, the cuts)
FAMILIES: dict[str, tuple[int | None, str, tuple[str, ...]]] = {
    "bundled:efficientnet_lite0": (64, "blocks.3", ("stem", *(f"blocks.{i}" for i in range(7)))),
    "bundled:efficientnet_lite1": (64, "blocks.4", ("stem", *(f"blocks.{i}" for i in range(7)))),
    "bundled:efficientnet_lite2": (64, "blocks.5", ("stem", *(f"blocks.{i}" for i in range(7)))),
    "torchvision:resnet18": (64, "layer2", ("stem", "layer1", "layer2", "layer3", "layer4")),
    "torchvision:mobilenet_v3_small": (64, "features.5", tuple(f"features.{i}" for i in range(13))),
    "torchvision:efficientnet_b0": (64, "features.4", tuple(f"features.{i}" for i in range(9))),
    "torchvision:vit_b_16": (None, "encoder.layers.5", ("stem", *(f"encoder.layers.{i}" for i in range(12)))),
    "torchvision:convnext_tiny": (64, "features.3", tuple(f"features.{i}" for i in range(8))),
    "timm:resnet18": (64, "layer3", ("stem", "layer1", "layer2", "layer3", "layer4")),
    "timm:tf_efficientnet_lite0": (64, "blocks.2", ("stem", *(f"blocks.{i}" for i in range(7)))),
    "timm:vit_tiny_patch16_224": (64, "blocks.7", ("stem", *(f"blocks.{i}" for i in range(12)))),
    "timm:convnext_atto": (64, "stages.1", ("stem", *(f"stages.{i}" for i in range(4)))),
}


def settings_of(name: str, **changes: object) -> BackboneSettings:
    return BackboneSettings(name=name, weights="random", input_size=FAMILIES[name][0]).model_copy(update=changes)


@functools.cache
def random_backbone(name: str) -> Backbone:
    """Return the family with random weights, also where libraries start at zero.

    timm starts the last batch-norm of a residual branch at 0, torchvision a transformer's classifier, and
    ConvNeXt scales its branches by 1e-6: a branch that is left out would not be noticed.
    """
    backbone = load(settings_of(name))
    assert isinstance(backbone, Backbone)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in backbone.model.parameters():
            if part.numel() == max(part.shape):
                part.add_(0.1 * torch.randn(part.shape, generator=generator))
        for part in backbone.suffix("penultimate").parameters():
            part.copy_(torch.randn(part.shape, generator=generator))
        for part_name, buffer in backbone.model.named_buffers():
            if part_name.endswith("running_mean"):
                buffer.add_(0.1)
    return backbone


def images_for(backbone: Backbone, count: int = 2) -> torch.Tensor:
    size = backbone.info.preprocessing.input_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))
