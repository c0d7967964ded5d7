"""From a built model and the settings to a frozen backbone that knows what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from fedgraft.errors import ModelError, listed
from fedgraft.kinds import Kind
from fedgraft.models.backbone import Backbone, checked_cut, freeze, pooled
from fedgraft.models.cuts import PENULTIMATE, Architecture
from fedgraft.models.description_cache import library_of
from fedgraft.models.info import BackboneInfo
from fedgraft.models.local import read_tensors
from fedgraft.models.preprocessing import ImagePreprocessing, Preprocessing, TextPreprocessing
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.sources import Built
from fedgraft.models.weights import fill, state_arrays, tensors_of, weights_digest

SETTINGS_OF: dict[Kind, tuple[str, ...]] = {
    "images": ("input_size", "normalization_mean", "normalization_std"),
    "texts": ("max_length",),
}
"""Settings that are about one kind of inputs."""


def with_arrays(settings: BackboneSettings, built: Built, arrays: Mapping[str, NDArray[Any]]) -> Built:
    """Fill a model with weights from the wire, each tensor checked by name, shape and type.

    Raises:
        ModelError: they don't fit.
    """
    origin = f"the received weights of {settings.name}"
    fill(built.model, tensors_of(arrays, built.model, origin), origin=origin)
    return built


def with_file(settings: BackboneSettings, built: Built) -> Built:
    """Fill a model from a local file; its classifier may be missing or have other classes (zeros then).

    Raises:
        ModelError: no such file, not readable, or it doesn't fit.
    """
    file = Path(settings.weights).expanduser().absolute()
    tensors = read_tensors(file)
    if settings.name.startswith("bundled:"):
        from fedgraft.models import bundled

        if bundled.has_original_names(tensors):
            tensors = bundled.in_order(built.model, tensors, str(file))
    fill(built.model, tensors, origin=f"{file}", classifier=built.architecture.classifier.modules)
    return replace(built, files=(file,))


def assemble(settings: BackboneSettings, built: Built, known: BackboneInfo | None = None) -> Backbone:
    """Freeze a model; measure what isn't known about it yet (digest, feature dimension).

    Raises:
        ModelError: the backbone lacks the cut or the pooling, or can't take the input size.
    """
    if known is not None:
        return Backbone(built.model, built.architecture, known)
    architecture = built.architecture
    cut = checked_cut(settings.name, architecture.cuts, settings.cut)
    pooling = _pooling(settings, architecture)
    preprocessing = _preprocessing(settings, built)
    model = freeze(built.model)
    info = BackboneInfo(
        name=settings.name,
        cuts=architecture.cuts,
        cut=cut,
        feature_dim=0,
        preprocessing=preprocessing,
        weights_digest=weights_digest(state_arrays(model)),
        pooling=pooling,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        library=library_of(settings.name),
    )
    try:
        with torch.inference_mode():
            features = pooled(model, architecture, cut, pooling, preprocessing.example())
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(_cant_take(settings.name, preprocessing, built.preprocessing, reason)) from error
    if features.ndim != 2:
        raise ModelError(f"{settings.name} gives {tuple(features.shape)} at '{cut}'; expected one vector an input")
    return Backbone(model, architecture, replace(info, feature_dim=features.shape[1]))


def _pooling(settings: BackboneSettings, architecture: Architecture) -> str:
    own = architecture.own_pooling
    if settings.pooling in ("auto", own):
        at_a_block = own == "own" and settings.cut != PENULTIMATE
        return "mean" if at_a_block else own  # an attention pool only fits where its own head stands
    prefix_tokens = architecture.num_prefix_tokens
    possible = {"mean": prefix_tokens is not None, "class_token": bool(prefix_tokens)}
    if (own == "own" and settings.cut == PENULTIMATE) or not possible[settings.pooling]:
        raise ModelError(
            f"{settings.name} can't pool '{settings.cut}' by {settings.pooling}: its activations there have no such "
            "tokens; leave pooling at auto"
        )
    return settings.pooling


def _check_kinds(settings: BackboneSettings, own: Preprocessing) -> None:
    """Refuse settings of other inputs than the backbone takes.

    Raises:
        ModelError: there are some.
    """
    for kind, names in SETTINGS_OF.items():
        given = [name for name in names if getattr(settings, name) is not None]
        if given and kind != own.takes:
            raise ModelError(f"{settings.name} takes {own.takes}, and {listed(given)} is about {kind}; leave it out")


def _cant_take(name: str, chosen: Preprocessing, own: Preprocessing, reason: str) -> str:
    if isinstance(chosen, ImagePreprocessing) and isinstance(own, ImagePreprocessing):
        what, instead = f"images of {chosen.input_size} px", f"choose another input_size (its own is {own.input_size})"
    else:
        what, instead = f"{chosen.takes} ({chosen.words()})", "choose another backbone"
    return f"{name} can't take {what}: {reason}; {instead}"


def _preprocessing(settings: BackboneSettings, built: Built) -> Preprocessing:
    own = built.preprocessing
    _check_kinds(settings, own)
    if isinstance(own, TextPreprocessing):
        length = settings.max_length or own.max_length
        if length > own.max_length:
            raise ModelError(f"{settings.name} reads {own.max_length} tokens at most, came max_length {length}")
        return replace(own, max_length=length)
    if not isinstance(own, ImagePreprocessing):
        return own
    size = settings.input_size or own.input_size
    if built.fixed_input_size not in (None, size):
        raise ModelError(
            f"{settings.name} takes images of {built.fixed_input_size} px only, came input_size {size}; "
            "leave input_size out"
        )
    return replace(
        own,
        input_size=size,
        mean=tuple(map(float, settings.normalization_mean or own.mean)),
        std=tuple(map(float, settings.normalization_std or own.std)),
    )
