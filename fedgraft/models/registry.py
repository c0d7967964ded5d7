"""One contract for every backbone: `describe` (cheap, cached) and `load`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fedgraft.errors import ModelError
from fedgraft.models import description_cache
from fedgraft.models.catalogue import LOG_MEL, LOG_MEL_CNN, OF_SOUNDS, kind_of, name_fault, names
from fedgraft.models.info import BackboneInfo
from fedgraft.models.preprocessing import NoPreprocessing
from fedgraft.models.settings import BackboneSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedgraft.models.backbone import Backbone, Identity
    from fedgraft.models.sources import Built

__all__ = ["describe", "load", "names"]

IDENTITY = BackboneInfo(
    name="identity",
    cuts=("penultimate",),
    cut="penultimate",
    feature_dim=0,
    preprocessing=NoPreprocessing(),
    weights_digest="",
    pooling="own",
    num_parameters=0,
)


def describe(settings: BackboneSettings) -> BackboneInfo:
    """Return what a backbone is; remembered on disk, so that a second call imports neither torch nor timm.

    Raises:
        ModelError: see `load`.
    """
    if settings.name == "identity":
        return IDENTITY
    return description_cache.read(settings) or load(settings).info


def load(settings: BackboneSettings, arrays: Mapping[str, NDArray[Any]] | None = None) -> Backbone | Identity:
    """Return a frozen backbone.

    Args:
        settings: Which one.
        arrays: Weights that came over the wire, instead of those that the settings name: every parameter and
            buffer under its full name. Nothing is downloaded or read then.

    Raises:
        ModelError: unknown name or cut, weights that aren't there, don't fit or can't be downloaded.
    """
    from fedgraft.models.backbone import Identity

    if fault := name_fault(settings.name):
        raise ModelError(fault)
    if settings.name == "identity":
        return Identity(IDENTITY)
    from fedgraft.models import assembly

    pretrained = settings.weights == "pretrained" and arrays is None
    built = _build(settings, pretrained, arrays)
    if arrays is not None:
        return assembly.assemble(settings, assembly.with_arrays(settings, built, arrays))
    if settings.weights not in ("pretrained", "random"):
        built = assembly.with_file(settings, built)
    known = description_cache.read(settings)
    backbone = assembly.assemble(settings, built, known)
    if known is None:
        description_cache.write(settings, backbone.info, built.files)
    return backbone


def rebuilt(settings: BackboneSettings, info: BackboneInfo, arrays: Mapping[str, NDArray[Any]]) -> Backbone:
    """Return a backbone as it was described, of which the weights up to its cut are still to be filled in.

    Args:
        settings: which one.
        info: what it was.
        arrays: those that it has up to its cut.

    Raises:
        ModelError: see `load`.
    """
    from fedgraft.models.backbone import Backbone

    described = {name: value for name, value in arrays.items() if value.dtype == "uint8"}  # of a text encoder
    built = _build(settings, False, described or None, is_whole=False)
    return Backbone(built.model, built.architecture, info)


def _build(
    settings: BackboneSettings, pretrained: bool, arrays: Mapping[str, NDArray[Any]] | None, is_whole: bool = True
) -> Built:
    import torch

    source, _, model_name = settings.name.partition(":")
    with torch.random.fork_rng(devices=[]):  # the draws of an initialiser leave the global generator as it was
        torch.default_generator.manual_seed(settings.random_seed)
        if settings.name in OF_SOUNDS:
            return _of_sounds(settings, pretrained)
        if kind_of(settings.name) == "texts":
            from fedgraft.models import text_encoders

            return text_encoders.build(settings, pretrained=pretrained, arrays=arrays, is_whole=is_whole)
        return _SOURCES[source](model_name, pretrained, settings.input_size)


def _bundled(model_name: str, pretrained: bool, input_size: int | None) -> Built:
    from fedgraft.models import bundled

    return bundled.build(model_name, pretrained=pretrained, input_size=input_size)


def _torchvision(model_name: str, pretrained: bool, input_size: int | None) -> Built:
    from fedgraft.models import torchvision_models

    return torchvision_models.build(model_name, pretrained=pretrained)


def _timm(model_name: str, pretrained: bool, input_size: int | None) -> Built:
    from fedgraft.models import timm_models

    return timm_models.build(model_name, pretrained=pretrained, input_size=input_size)


def _pixels(model_name: str, pretrained: bool, input_size: int | None) -> Built:
    from fedgraft.models import pixels

    return pixels.build(input_size)


def _of_sounds(settings: BackboneSettings, pretrained: bool) -> Built:
    rate, seconds = settings.sample_rate, settings.seconds
    if settings.name == LOG_MEL:
        from fedgraft.models import log_mel

        return log_mel.build(rate, seconds)
    if settings.name == LOG_MEL_CNN:
        from fedgraft.models import log_mel_cnn

        return log_mel_cnn.build(pretrained, rate, seconds)
    from fedgraft.models import speaker_encoder

    return speaker_encoder.build(pretrained, rate, seconds)


_SOURCES: dict[str, Callable[[str, bool, int | None], Built]] = {
    "bundled": _bundled,
    "torchvision": _torchvision,
    "timm": _timm,
    "pixels": _pixels,
}
"""Sources of backbones of images."""
