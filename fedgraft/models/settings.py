"""Settings of the backbone: which pretrained base, where it is cut, how images are prepared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from fedgraft.models.catalogue import OF_SOUNDS, kind_of, name_fault, weights_fault
from fedgraft.settings import PathMarker, Settings, named, setting_fault


class BackboneSettings(Settings):
    """The shared, frozen, pretrained base; a bare string is short for `{name: string}`."""

    name: str = "bundled:efficientnet_lite0"
    """Which backbone: `bundled:<name>`, `torchvision:<name>`, `timm:<name>`, `transformers:<name or folder>`, `pixels` (those of a small copy, what any other must beat), for sounds `log-mel`, `log-mel-cnn` or `speaker-encoder`, or `identity` for a source that gives ready features; `fedgraft list backbones` shows them."""  # noqa: E501

    weights: Annotated[str, PathMarker(words=("pretrained", "random"))] = "pretrained"
    """`pretrained`, `random` (see `random_seed`), or the path of a .safetensors or .pth file; its classifier may be missing or have other classes."""  # noqa: E501

    cut: str = "penultimate"
    """Up to where the backbone is frozen; every backbone has `penultimate` (the input of its classifier)."""

    input_size: int | None = Field(default=None, ge=8, le=4096)
    """Height and width of the images, px; default: the backbone's own. Smaller is faster and less accurate."""

    sample_rate: int | None = Field(default=None, ge=1000, le=384_000)
    """Samples a second of the sounds, Hz; default: the backbone's own. Recordings are resampled to it."""

    seconds: float | None = Field(default=None, gt=0, le=600)
    """Length of the sounds; default: the backbone's own. Longer ones are cut, shorter ones filled up with zeros."""

    max_length: int | None = Field(default=None, ge=4, le=1_000_000)
    """Tokens of a text that are read, at most; default: the encoder's own limit. Fewer is faster."""

    pooling: Literal["auto", "mean", "class_token"] = "auto"
    """How an activation at the cut becomes one vector; `auto` is what the backbone's own classifier sees."""

    normalization_mean: tuple[float, float, float] | None = None
    """Mean of red, green and blue in 0..1; default: the one that the weights were trained with."""

    normalization_std: tuple[float, float, float] | None = None
    """Standard deviation of red, green and blue in 0..1; default: the one of the weights."""

    random_seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of `weights: random`; the same seed gives the same weights on every machine with the same torch."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return named(value)

    @model_validator(mode="after")
    def _of_the_right_kind(self) -> BackboneSettings:
        of_sounds = [name for name in ("sample_rate", "seconds") if getattr(self, name) is not None]
        if of_sounds and kind_of(self.name) != "sounds":
            others = f"only backbones of sounds ({', '.join(OF_SOUNDS)}) have one"
            raise setting_fault(of_sounds[0], f"{self.name} takes {kind_of(self.name)}; {others}; leave it out")
        return self

    @field_validator("name")
    @classmethod
    def _known_name(cls, value: str) -> str:
        if fault := name_fault(value):
            raise ValueError(fault)
        return value

    @field_validator("weights")
    @classmethod
    def _known_weights(cls, value: str) -> str:
        if fault := weights_fault(value):
            raise ValueError(fault)
        return value

    @field_validator("normalization_std")
    @classmethod
    def _positive(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and not all(0 < part < float("inf") for part in value):
            raise ValueError(f"came {value}; expected three numbers above 0")
        return value
