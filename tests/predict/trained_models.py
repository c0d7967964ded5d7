"""Small trained models for tests: backbones with random weights that no branch of is silent, and random heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedgraft.model_card import Card
from fedgraft.models.backbone import Backbone
from fedgraft.models.head_settings import CosineHead, HeadSettings, LinearHead, MlpHead
from fedgraft.models.heads import head_shapes
from fedgraft.models.losses import Task
from fedgraft.models.registry import load
from fedgraft.models.settings import BackboneSettings
from fedgraft.trained import TrainedModel

NAMES = ("ant", "bee", "cat", "dög")


@dataclass(frozen=True)
class Row:
    """A line of the table of exports."""

    backbone: str
    input_size: int | None
    cut: str
    head: HeadSettings
    task: Task = "classes"
    loss: str = "softmax"

    def __str__(self) -> str:
        return f"{self.backbone}@{self.cut}-{self.head.name}"


TABLE = (
    Row("timm:test_resnet", 32, "penultimate", LinearHead()),
    Row("timm:test_efficientnet", 32, "blocks.2", MlpHead(hidden=(8, 6)), "labels", "sigmoid"),
    Row("timm:test_vit", None, "blocks.1", CosineHead()),
    Row("torchvision:resnet18", 32, "layer1", LinearHead(bias=False), "real", "squared"),
)
SLOW = (
    Row("timm:test_convnext", 32, "stages.1", LinearHead(), "classes", "squared"),
    Row("torchvision:vit_b_16", None, "encoder.layers.0", CosineHead()),
    Row("torchvision:mobilenet_v3_small", 64, "features.5", MlpHead(hidden=(8,))),
    Row("torchvision:squeezenet1_0", 64, "penultimate", LinearHead()),
    Row("torchvision:googlenet", 64, "penultimate", LinearHead(), "classes", "sigmoid"),
)


def trained(row: Row, seed: int = 0) -> TrainedModel:
    settings = BackboneSettings(name=row.backbone, weights="random", input_size=row.input_size, cut=row.cut)
    backbone = load(settings)
    assert isinstance(backbone, Backbone)
    torch_generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in backbone.model.parameters():
            if part.numel() == max(part.shape):  # libraries start branches at zero; a lost one would not be noticed
                part.add_(0.1 * torch.randn(part.shape, generator=torch_generator))
        for name, buffer in backbone.model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1)
    generator = np.random.default_rng(seed)
    shapes = head_shapes(row.head, backbone.info.feature_dim, len(NAMES))
    head = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    card = Card("small", "run-0001", row.task, row.loss, NAMES, row.head, settings, backbone.info)
    return TrainedModel(card, backbone, head)


def pictures(model: TrainedModel, count: int, seed: int = 3) -> torch.Tensor:
    return torch.rand(count, *model.card.input_shape, generator=torch.Generator().manual_seed(seed))
