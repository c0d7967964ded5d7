"""The models of the table by hand: the libraries' own modules, filled from the tensors of an exported file."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from trained_models import Row

from fedgraft.models.head_settings import CosineHead, LinearHead

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
HALF = torch.tensor([0.5, 0.5, 0.5])
"""What timm's own configurations of test_resnet, test_vit and test_convnext say; the others have ImageNet's."""


def _test_resnet(model: Any, x: Tensor) -> Tensor:
    return model.global_pool(model.forward_features(x))


def _test_efficientnet(model: Any, x: Tensor) -> Tensor:
    x = model.bn1(model.conv_stem(x))
    for number in range(3):
        x = model.blocks[number](x)
    return x.mean((2, 3))


def _test_vit(model: Any, x: Tensor) -> Tensor:
    x = model.patch_embed(x).flatten(1, 2)
    x = torch.cat([model.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + model.pos_embed
    return model.blocks[1](model.blocks[0](x))[:, 0]


def _test_convnext(model: Any, x: Tensor) -> Tensor:
    return model.stages[1](model.stages[0](model.stem(x))).mean((2, 3))


def _resnet18(model: Any, x: Tensor) -> Tensor:
    x = model.maxpool(functional.relu(model.bn1(model.conv1(x))))
    return model.layer1(x).mean((2, 3))


def _vit_b_16(model: Any, x: Tensor) -> Tensor:
    x = model.conv_proj(x).flatten(2).transpose(1, 2)
    x = torch.cat([model.class_token.expand(x.shape[0], -1, -1), x], dim=1) + model.encoder.pos_embedding
    return model.encoder.layers[0](x)[:, 0]


def _mobilenet(model: Any, x: Tensor) -> Tensor:
    return model.features[:6](x).mean((2, 3))


def _squeezenet(model: Any, x: Tensor) -> Tensor:
    return model.features(x).mean((2, 3))


def _googlenet(model: Any, x: Tensor) -> Tensor:
    model.fc = nn.Identity()
    return model(x)


_FEATURES = {
    "timm:test_resnet": _test_resnet,
    "timm:test_efficientnet": _test_efficientnet,
    "timm:test_vit": _test_vit,
    "timm:test_convnext": _test_convnext,
    "torchvision:resnet18": _resnet18,
    "torchvision:vit_b_16": _vit_b_16,
    "torchvision:mobilenet_v3_small": _mobilenet,
    "torchvision:squeezenet1_0": _squeezenet,
    "torchvision:googlenet": _googlenet,
}


def bare_model(name: str, tensors: dict[str, Tensor]) -> nn.Module:
    """Return the library's model with the tensors `backbone.*`; what the file lacks stays NaN."""
    source, _, model_name = name.partition(":")
    options: dict[str, Any] = {"init_weights": False} if model_name == "googlenet" else {}
    model: nn.Module = timm.create_model(model_name) if source == "timm" else models.get_model(model_name, **options)
    model.eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(float("nan") if value.is_floating_point() else 0)
        missing = model.load_state_dict(
            {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")},
            strict=False,
        )
    assert not missing.unexpected_keys
    return model


def expected_outputs(row: Row, tensors: dict[str, Tensor], images: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    """Return what an exported file must give, computed from its tensors by hand."""
    halves = row.backbone in ("timm:test_resnet", "timm:test_vit", "timm:test_convnext")
    mean, std = (HALF, HALF) if halves else (MEAN, STD)
    with torch.inference_mode():
        x = (images - mean[:, None, None]) / std[:, None, None]
        features = _FEATURES[row.backbone](bare_model(row.backbone, tensors), x).double().numpy()
    head = {name.removeprefix("head."): value.double().numpy() for name, value in tensors.items() if "head." in name}
    logits = _logits(row, head, features)
    if row.task == "real":
        return {"values": logits}
    return {"logits": logits, "probabilities": _probabilities(row.loss, logits)}


def _logits(row: Row, head: dict[str, Any], features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if isinstance(row.head, LinearHead):
        return features @ head["weight"].T + head.get("bias", 0)
    if isinstance(row.head, CosineHead):
        norms = [np.linalg.norm(value, axis=1, keepdims=True) for value in (features, head["weight"])]
        return head["scale"] * (features / norms[0]) @ (head["weight"] / norms[1]).T
    for layer in range(len(row.head.hidden) + 1):
        features = np.maximum(features, 0) if layer else features
        features = features @ head[f"layers.{layer}.weight"].T + head[f"layers.{layer}.bias"]
    return features


def _probabilities(loss: str, logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if loss == "softmax":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-logits)) if loss == "sigmoid" else np.clip(logits, 0, 1)
