"""Any model of timm: its own weights from the Hugging Face hub, its own preprocessing, block cuts for families."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedgraft.errors import ModelError, nearest
from fedgraft.models import download
from fedgraft.models.cuts import PENULTIMATE, Architecture, Stage
from fedgraft.models.preprocessing import ImagePreprocessing
from fedgraft.models.sources import Built


def build(model_name: str, *, pretrained: bool, input_size: int | None) -> Built:
    """Return a timm model; `input_size` (px) matters only to those whose tensors depend on it.

    Raises:
        ModelError: unknown name, no published weights, no network, or not a model of RGB images.
    """
    download.no_telemetry()
    import timm

    _check_name(model_name)
    config: Any = timm.get_pretrained_cfg(model_name)
    channels, height, width = config.input_size
    if channels != 3 or height != width:
        raise ModelError(f"timm:{model_name} takes {config.input_size} images; expected square RGB images")
    options: dict[str, Any] = {}
    if config.fixed_input_size and input_size is not None and input_size != height:
        options["img_size"] = input_size  # timm resamples the position embedding of the weights
    file = _weights_file(model_name, config) if pretrained else None
    if file is not None:
        # custom_load is about the format behind the url; what the hub has are plain state dicts
        options["pretrained_cfg_overlay"] = {"file": str(file), "custom_load": False}
    try:
        with download.impatient():
            model = timm.create_model(model_name, pretrained=pretrained, **options)
    except OSError as error:
        raise download.offline(f"timm:{model_name}", str(config.url), error) from error
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"timm can't make {model_name} with these settings: {reason}") from error
    return Built(
        model=model,
        architecture=architecture(model, model_name),
        preprocessing=ImagePreprocessing(height, tuple(config.mean), tuple(config.std), config.interpolation),
        files=(file,) if file is not None else (),
    )


def architecture(model: nn.Module, model_name: str) -> Architecture:
    """Return how a timm model is cut; families that aren't known here have the penultimate cut alone.

    Raises:
        ModelError: the model isn't one that classifies images.
    """
    import timm.models as families

    if not hasattr(model, "get_classifier") or not hasattr(model, "forward_head"):
        raise ModelError(f"timm:{model_name} has no classifier to cut off; choose another backbone")
    found: Any = model.get_classifier()  # type: ignore[operator]
    heads = [found] if isinstance(found, nn.Module) and not isinstance(found, nn.ModuleList) else list(found)
    names = tuple(name for name, module in model.named_modules() if any(module is head for head in heads))
    if len(names) != 1:  # distilled models average several heads, each in its own way
        return Architecture((_WHOLE,), Stage("classifier", names, _several), own_pooling="own")
    last = Stage("classifier", names, partial(_logits, names[0]))
    kind: type = type(model)
    if kind in (families.EfficientNet, families.MobileNetV3):
        return _chain(("conv_stem", "bn1"), _children(model, "blocks"), ("conv_head", "bn2"), last, model)
    if kind is families.ResNet:
        stem = ("conv1", "bn1", "act1", "maxpool")
        return _chain(stem, ("layer1", "layer2", "layer3", "layer4"), (), last, model)
    if kind is families.ConvNeXt:
        return _chain(("stem",), _children(model, "stages"), ("norm_pre", "head.norm"), last, model)
    if kind is families.VisionTransformer and getattr(model, "attn_pool", None) is None:
        return _vision_transformer(model, last)
    return Architecture((_WHOLE,), last, own_pooling="own")


def _chain(
    stem: tuple[str, ...], blocks: tuple[str, ...], tail: tuple[str, ...], last: Stage, model: nn.Module
) -> Architecture:
    tail = tuple(name for name in tail if hasattr(model, name.partition(".")[0]))
    head = {"blocks": _head_of_efficientnet, "stages": _head_of_convnext}.get(blocks[0].partition(".")[0], _pre_logits)
    return Architecture(
        (
            Stage("stem", tuple(name for name in stem if hasattr(model, name))),
            *(Stage(name, (name,)) for name in blocks),
            Stage(PENULTIMATE, tail, head),
        ),
        last,
    )


def _vision_transformer(model: nn.Module, last: Stage) -> Architecture:
    prefix_tokens: Any = model.num_prefix_tokens
    pooling = {"token": "class_token", "avg": "mean"}.get(str(model.global_pool), "own")
    tail = Stage(PENULTIMATE, ("norm", "fc_norm"), _head_of_vit)
    blocks = tuple(Stage(name, (name,)) for name in _children(model, "blocks"))
    return Architecture(
        (Stage("stem", (), _stem_of_vit), *blocks, tail), last, pooling, prefix_tokens, last_norm="norm"
    )


def _children(model: nn.Module, name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{child}" for child, _ in model.get_submodule(name).named_children())


# timm's own verbs, as functions of (model, x) so that a description holds no module.
def _features(model: Any, x: Tensor) -> Tensor:
    return _pre_logits(model, model.forward_features(x))


def _pre_logits(model: Any, x: Tensor) -> Tensor:
    features: Tensor = model.forward_head(x, pre_logits=True)
    return features


def _logits(classifier: str, model: Any, x: Tensor) -> Tensor:
    module = model.get_submodule(classifier)
    if isinstance(module, nn.Conv2d) and x.ndim == 2:
        x = x[:, :, None, None]  # some classifiers are 1 x 1 convolutions
    return torch.flatten(module(x), 1)


def _several(model: Any, x: Tensor) -> Tensor:
    raise ModelError("this timm model has several classifiers, or none, so it has no suffix; its features are there")


_WHOLE = Stage(PENULTIMATE, (), _features)


def _head_of_efficientnet(model: Any, x: Tensor) -> Tensor:
    if hasattr(model, "bn2"):
        x = model.bn2(model.conv_head(x))
    return _pre_logits(model, x)


def _head_of_convnext(model: Any, x: Tensor) -> Tensor:
    return _pre_logits(model, model.norm_pre(x))


def _stem_of_vit(model: Any, x: Tensor) -> Tensor:
    tokens: Tensor = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    return tokens


def _head_of_vit(model: Any, x: Tensor) -> Tensor:
    return _pre_logits(model, model.norm(x))


def _check_name(model_name: str) -> None:
    import timm

    bare, _, tag = model_name.partition(".")
    if not timm.is_model(bare):
        listing = 'python -c "import timm; print(timm.list_models())"'
        raise ModelError(f"timm has no model '{bare}'; `{listing}` lists all{nearest(bare, timm.list_models())}")
    tags = [name.partition(".")[2] for name in timm.list_models(f"{bare}.*", pretrained=True)]
    if tag and tag not in tags:
        there = ", ".join(tags) or "none"
        raise ModelError(f"timm has no weights '{tag}' for {bare}; there are: {there}{nearest(tag, tags)}")


def _weights_file(model_name: str, config: Any) -> Path | None:
    if not (config.hf_hub_id or config.url):
        raise ModelError(f"timm publishes no weights for {model_name}; use `weights: random` or the path of a file")
    if config.hf_hub_id:
        return download.from_hub(f"timm:{model_name}", config.hf_hub_id, config.hf_hub_filename)
    return None  # a few stand on other servers, from which timm fetches them by itself
