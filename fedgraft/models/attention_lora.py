"""LoRA on `nn.MultiheadAttention`, whose projections are bare parameters: `W + alpha / rank B A` of both weights.

peft 0.21 has such a layer too, but it adds the product to the weight of `out_proj` twice in a pass, of which the
gradient knows once, and leaves rounding errors in the frozen weights with every pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

WEIGHTS = {"": "in_proj_weight", "out_proj.": "weight"}
"""The projections' weights: where they are, and what they are called there."""


class LowRank(nn.Module):
    """A weight `(outputs, inputs)` plus a scaled product of two thin matrices."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.lora_A = nn.Parameter(torch.zeros(rank, weight.shape[1]))
        self.lora_B = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self._scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Return `W + alpha / rank B A`."""
        return weight + self._scale * (self.lora_B @ self.lora_A)


def attach(attention: nn.Module, rank: int, alpha: float) -> dict[str, str]:
    """Put LoRA into an attention's projections; return its parameters' names as peft has them, and as they are."""
    names: dict[str, str] = {}
    for place, kind in WEIGHTS.items():
        module = attention.get_submodule(place.rstrip("."))
        parametrize.register_parametrization(module, kind, LowRank(module.get_parameter(kind), rank, alpha))
        for part in ("lora_A", "lora_B"):
            names[f"{place}{part}.weight"] = f"{place}parametrizations.{kind}.0.{part}"
    return names


def merge(attention: nn.Module, plain: nn.Module) -> None:
    """Put LoRA of an attention into the weights of a plain one."""
    for place, kind in WEIGHTS.items():
        weight: Tensor = getattr(attention.get_submodule(place.rstrip(".")), kind)
        plain.get_submodule(place.rstrip(".")).get_parameter(kind).copy_(weight)
