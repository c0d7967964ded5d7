"""Any image classifier of torchvision: its default weights and their transform, block cuts for families."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from fedgraft.errors import ModelError, nearest
from fedgraft.models import download
from fedgraft.models.cuts import PENULTIMATE, Architecture, Stage, flat_pool
from fedgraft.models.preprocessing import ImagePreprocessing
from fedgraft.models.sources import Built


def build(model_name: str, *, pretrained: bool) -> Built:
    """Return a torchvision image classifier.

    Raises:
        ModelError: unknown name, or weights that are neither here nor to be had.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if model_name not in known:
        listing = 'python -c "from torchvision import models; print(models.list_models(module=models))"'
        raise ModelError(
            f"torchvision has no image classifier '{model_name}'; `{listing}` lists all{nearest(model_name, known)}"
        )
    weights = models.get_model_weights(model_name).DEFAULT
    files = (_checked_file(f"torchvision:{model_name}", weights),) if pretrained else ()
    options: dict[str, Any] = {}
    if not pretrained and model_name in ("googlenet", "inception_v3"):
        options["init_weights"] = True  # else torchvision warns that its default will change
    if not pretrained and model_name.startswith("vit_"):
        options["image_size"] = weights.meta["min_size"][0]
    model = models.get_model(model_name, weights=weights if pretrained else None, **options)
    transform = weights.transforms()
    preprocessing = ImagePreprocessing(
        transform.crop_size[0], tuple(transform.mean), tuple(transform.std), transform.interpolation.value
    )
    fixed = preprocessing.input_size if model_name.startswith(("vit_", "maxvit")) else None
    return Built(model, architecture(model, model_name), preprocessing, files, fixed)


def architecture(model: nn.Module, model_name: str) -> Architecture:
    """Return how a torchvision model is cut; families that aren't known here have the penultimate cut alone.

    Raises:
        ModelError: the model has no linear classifier.
    """
    from torchvision import models

    kind: type = type(model)
    if kind is models.SqueezeNet:  # its classifier is a convolution, pooled afterwards
        return Architecture(
            (*_children(model, "features"), Stage(PENULTIMATE)),
            Stage("classifier", ("classifier",), _squeezed),
        )
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ModelError(f"torchvision:{model_name} has no linear classifier to cut off; choose another backbone")
    last = Stage("classifier", (linear[-1],))
    if kind is models.ResNet:
        stem = Stage("stem", ("conv1", "bn1", "relu", "maxpool"))
        blocks = tuple(Stage(name, (name,)) for name in ("layer1", "layer2", "layer3", "layer4"))
        return Architecture((stem, *blocks, Stage(PENULTIMATE, (), flat_pool)), last)
    if kind in (models.MobileNetV3, models.EfficientNet, models.ConvNeXt):
        tail = Stage(PENULTIMATE, ("classifier.0", "classifier.1", "classifier.2")[: _index(linear[-1])], _tail)
        return Architecture((*_children(model, "features"), tail), last)
    if kind is models.VisionTransformer and linear[-1] == "heads.head" and len(model.heads) == 1:  # type: ignore[arg-type]
        tail = Stage(PENULTIMATE, ("encoder.ln",), _class_token)
        stages = (Stage("stem", (), _tokens), *_children(model, "encoder.layers"), tail)
        return Architecture(stages, last, "class_token", num_prefix_tokens=1, last_norm="encoder.ln")
    return Architecture((Stage(PENULTIMATE, (), _before_last_linear),), last, own_pooling="own")


def _children(model: nn.Module, name: str) -> tuple[Stage, ...]:
    children = (f"{name}.{child}" for child, _ in model.get_submodule(name).named_children())
    return tuple(Stage(child.replace("encoder_layer_", ""), (child,)) for child in children)


def _index(name: str) -> int:
    return int(name.rpartition(".")[2])


def _tail(model: Any, x: Tensor) -> Tensor:
    """Pool as the model does, then all of its classifier but the last linear layer."""
    x = model.avgpool(x)
    if not isinstance(model.classifier[0], nn.LayerNorm):
        x = torch.flatten(x, 1)
    for module in list(model.classifier)[:-1]:
        x = module(x)
    return x


def _squeezed(model: Any, x: Tensor) -> Tensor:
    return torch.flatten(model.classifier(x), 1)


def _tokens(model: Any, x: Tensor) -> Tensor:
    patches = model._process_input(x)
    tokens = torch.cat([model.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
    embedded: Tensor = model.encoder.dropout(tokens + model.encoder.pos_embedding)
    return embedded


def _class_token(model: Any, x: Tensor) -> Tensor:
    tokens: Tensor = model.encoder.ln(x)
    return tokens[:, 0]


def _before_last_linear(model: nn.Module, x: Tensor) -> Tensor:
    """Run the whole model and return what its last linear layer was given."""
    seen: list[Tensor] = []
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(x)
    finally:
        hook.remove()
    return seen[0]


def _checked_file(backbone: str, weights: Any) -> Path:
    """Download unless it's there, and make sure that the file holds tensors only.

    torchvision itself loads it with pickle; read here first with `weights_only`, a file that could run code
    never gets that far.
    """
    import pickle

    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    try:
        with download.impatient():
            torch.hub.load_state_dict_from_url(
                weights.url, progress=False, check_hash=True, weights_only=True, map_location="cpu"
            )
    except OSError as error:
        raise download.offline(backbone, weights.url, error) from error
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ModelError(f"the weights file {file} is damaged; delete it, and it is downloaded again") from error
    return file
