"""Settings of how blocks past a cut are trained: all their weights, or a few parameters in their place."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from fedgraft.settings import Settings, named

Patterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
"""Ends of modules' names, such as `qkv` or `attn.qkv`, with `*` for any letters; or a kind: `all-linear`, `all-conv`,
`all-attention`."""


class Full(Settings):
    """All parameters of the blocks (full fine-tuning)."""

    name: Literal["full"] = "full"
    """All parameters of the blocks."""


class BitFit(Settings):
    """The blocks' biases alone (Ben Zaken, Goldberg and Ravfogel, ACL 2022, arXiv:2106.10199)."""

    name: Literal["bitfit"] = "bitfit"
    """The blocks' biases alone."""


class Lora(Settings):
    """LoRA: a layer's weight `W` becomes `W + alpha / rank * B A` (Hu et al., ICLR 2022, arXiv:2106.09685)."""

    name: Literal["lora"] = "lora"
    """A product of two thin matrices is added to each weight; through the library peft."""
    rank: PositiveInt = 8
    """Rows of A and columns of B."""
    alpha: PositiveFloat = 16.0
    """The product is multiplied by `alpha / rank`."""
    targets: Patterns | None = Field(default=None, examples=[["qkv", "proj"]])
    """Layers that are adapted: ends of their names, or `all-linear`, `all-conv`, `all-attention`; null: every linear
    layer, attention and convolution without groups past the cut."""


class IA3(Settings):
    """IA3: activations are scaled by learned vectors (Liu et al., NeurIPS 2022, arXiv:2205.05638)."""

    name: Literal["ia3"] = "ia3"
    """Activations are scaled by learned vectors; through the library peft."""
    targets: Patterns | None = Field(default=None, examples=[["qkv"]])
    """Layers whose outputs are scaled, as `lora` has them; null: keys and values of attention (`qkv`, where they are
    one layer), or where no layer has such a name every convolution."""
    feedforward: Patterns | None = Field(default=None, examples=[["fc2"]])
    """Layers whose inputs are scaled; null: the second layer of each MLP, if `targets` is null as well."""


class Adapter(Settings):
    """Bottleneck adapters: `x + up(relu(down(x)))` after sub-layers (Houlsby et al., ICML 2019, arXiv:1902.00751)."""

    name: Literal["adapter"] = "adapter"
    """A narrow two-layer network on top of sub-layers, added to what they give."""
    width: PositiveInt = 16
    """Width of the bottleneck."""
    targets: Patterns | None = Field(default=None, examples=[["mlp"]])
    """Modules after which adapters sit: ends of their names; null: attention and MLP of every block, as Houlsby et al.
    have it; `[mlp]` is the placement of Pfeiffer et al. (EACL 2021, arXiv:2005.00247)."""


MethodSettings = Annotated[Full | BitFit | Lora | IA3 | Adapter, Field(discriminator="name"), BeforeValidator(named)]

WithTargets = Lora | IA3 | Adapter
"""Methods that put new parameters into the blocks, whose own stay as they are."""
