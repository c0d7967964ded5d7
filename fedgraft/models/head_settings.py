"""Settings of the head: everything trainable after the cut."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from fedgraft.settings import Settings, named


class LinearHead(Settings):
    """One linear layer: `logits = features @ weight.T + bias`."""

    name: Literal["linear"] = "linear"
    """One linear layer."""
    bias: bool = True
    """Whether the layer has a bias."""


class CosineHead(Settings):
    """Scaled cosine similarity to one direction a class (Gidaris and Komodakis, CVPR 2018, arXiv:1804.09458)."""

    name: Literal["cosine"] = "cosine"
    """Scaled cosine similarity of features and class directions; robust to unequal feature norms."""
    scale: PositiveFloat = 10.0
    """The trainable scale's value at the start."""


class MlpHead(Settings):
    """Fully connected layers with ReLU between them."""

    name: Literal["mlp"] = "mlp"
    """Fully connected layers with ReLU between them."""
    hidden: tuple[PositiveInt, ...] = Field(default=(256,), min_length=1)
    """Width of each hidden layer."""


class AdapterHead(Settings):
    """A linear adapter from the features to a few directions, and one linear layer on these."""

    name: Literal["adapter"] = "adapter"
    """A linear adapter to a few directions and a linear layer on them: what personal strategies share, and keep."""
    rank: PositiveInt = 64
    """Directions of the adapter; they start orthogonal."""


HeadSettings = Annotated[
    LinearHead | CosineHead | MlpHead | AdapterHead, Field(discriminator="name"), BeforeValidator(named)
]
