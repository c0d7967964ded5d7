"""Small real models with random weights, and what LoRA, IA3 and adapters are by hand: weights changed by formula."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from lively_weights import enliven
from torch import nn

from fedgraft.models.backbone import Backbone
from fedgraft.models.blocks import Blocks
from fedgraft.models.cuts import Architecture
from fedgraft.models.info import BackboneInfo
from fedgraft.models.preprocessing import ImagePreprocessing
from fedgraft.models.timm_models import architecture as of_timm
from fedgraft.models.torchvision_models import architecture as of_torchvision
from fedgraft.models.unfreeze_settings import UnfreezeSettings


def timm_vit() -> tuple[nn.Module, Architecture]:
    model = timm.create_model("test_vit", pretrained=False, img_size=32)
    return model, of_timm(model, "test_vit")


def timm_resnet() -> tuple[nn.Module, Architecture]:
    model = timm.create_model("test_resnet", pretrained=False)
    return model, of_timm(model, "test_resnet")


def torchvision_vit() -> tuple[nn.Module, Architecture]:
    model = torchvision.models.VisionTransformer(32, 16, 3, 4, 32, 64, num_classes=5)
    return model, of_torchvision(model, "vit")


MODELS = {"timm vit": (timm_vit, "blocks.3"), "timm resnet": (timm_resnet, "layer2")}
MODELS |= {"torchvision vit": (torchvision_vit, "encoder.layers.0")}


def backbone_of(name: str) -> Backbone:
    """Return a backbone for pictures of 32 px in which no branch is silent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model, architecture = MODELS[name][0]()
    enliven(model, 7)
    info = BackboneInfo(
        name=name,
        cuts=architecture.cuts,
        cut="penultimate",
        feature_dim=0,
        preprocessing=ImagePreprocessing(32, (0.5,) * 3, (0.5,) * 3, "bilinear"),
        weights_digest="",
        pooling=architecture.own_pooling,
        num_parameters=0,
    )
    return Backbone(model, architecture, info)


def blocks_of(backbone: Backbone, method: Any) -> Blocks:
    return backbone.blocks(MODELS[backbone.info.name][1], settings(backbone, method))


def settings(backbone: Backbone, method: Any) -> UnfreezeSettings:
    return UnfreezeSettings(cut=MODELS[backbone.info.name][1], method=method)


@functools.cache
def pictures() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def drawn(
    shapes: Mapping[str, tuple[int, ...]], around: float = 0.0
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return random values of some shapes."""
    generator = np.random.default_rng(3)
    return {
        name: (around + 0.2 * generator.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()
    }
