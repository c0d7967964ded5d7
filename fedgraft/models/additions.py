"""New parameters in frozen blocks, trained in place of the blocks' own: LoRA, IA3, bottleneck adapters."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedgraft.models import attention_lora, bottleneck, peft_layers
from fedgraft.models.method_settings import Adapter, Lora, WithTargets
from fedgraft.models.targets import chosen, outputs
from fedgraft.randomness import rng

Run = Callable[[nn.Module], Tensor]
"""Sends something through the blocks of a model."""

DRAWN = (".lora_A.weight", f".{bottleneck.NAME}.down.weight")
"""How the names of arrays end that start at random; all others start where they change nothing."""


@dataclass(frozen=True)
class Additions:
    """A copy of a model with new parameters in some of its modules.

    Attributes:
        model: the copy; its outputs are those of the plain model until a new parameter changes.
        plain: the model that it is a copy of.
        method: what was added.
        targets: full names of the modules that it was added to, and what of them is adapted.
        names: of the new parameters as they travel, and as they are in the copy.
    """

    model: nn.Module
    plain: nn.Module
    method: WithTargets
    targets: Mapping[str, str]
    names: Mapping[str, str]

    @functools.cached_property
    def start(self) -> dict[str, NDArray[np.float32]]:
        """The new parameters where they change nothing, by the names under which they travel."""
        state = self.model.state_dict()
        start = {name: np.array(state[full].numpy(), dtype=np.float32) for name, full in self.names.items()}
        return {name: np.zeros_like(value) if name.endswith(DRAWN) else value for name, value in start.items()}

    def drawn(self, seed: int) -> dict[str, NDArray[np.float32]]:
        """Return the new parameters as a run starts from, still changing nothing.

        The matrix that the input meets first is uniform within `1 / sqrt(inputs)`, as PyTorch's linear layers and
        peft's start; each is a function of the seed and its name alone.
        """
        drawn = {
            name: rng(seed, f"start of {name}").uniform(-1, 1, value.shape) / np.prod(value.shape[1:]) ** 0.5
            for name, value in self.start.items()
            if name.endswith(DRAWN)
        }
        return {name: drawn.get(name, value).astype(np.float32) for name, value in self.start.items()}

    def settle(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Put trained values into the plain model: merged into its weights, or as modules where they can't be."""
        full = {self.names[name]: torch.tensor(np.asarray(value)) for name, value in arrays.items()}
        if isinstance(self.method, Adapter):
            down = f"{bottleneck.NAME}.down.weight"
            for name in self.targets:
                dim = self.start[f"{name}.{down}"].shape[1]
                bottleneck.attach(self.plain.get_submodule(name), dim, self.method.width)
            self.plain.load_state_dict(full, strict=False)
            return
        filled = copy.deepcopy(self.model)
        filled.load_state_dict(full, strict=False)
        attentions, layers = _by_library(self.plain, self.targets)
        with torch.no_grad():
            peft_layers.merge(filled, layers, self.plain)
            for name in attentions:
                attention_lora.merge(filled.get_submodule(name), self.plain.get_submodule(name))


def add(model: nn.Module, own: nn.Module, method: WithTargets, run: Run, where: str) -> Additions:
    """Return a copy of a model with new parameters.

    Args:
        model: the frozen model.
        own: the part of it that may be changed, with modules under their full names.
        method: what is added, and where.
        run: sends something through that part.
        where: which part it is, for errors.

    Raises:
        ModelError: there is nothing that the method can adapt, or a setting names what is not there.
    """
    targets = chosen(own, method, functools.partial(run, model), where)
    copied = copy.deepcopy(model)
    names: dict[str, str] = {}
    if isinstance(method, Adapter):
        given = outputs({name: model.get_submodule(name) for name in targets}, functools.partial(run, model))
        for name in targets:
            own_names = bottleneck.attach(copied.get_submodule(name), given[name].shape[-1], method.width)
            names |= {f"{name}.{part}": f"{name}.{part}" for part in own_names}
        return Additions(copied, model, method, targets, names)
    attentions, layers = _by_library(model, targets)
    if layers:
        names |= peft_layers.inject(copied, method, layers)
    if isinstance(method, Lora):
        for name in attentions:
            own_parts = attention_lora.attach(copied.get_submodule(name), method.rank, method.alpha)
            names |= {f"{name}.{short}": f"{name}.{full}" for short, full in own_parts.items()}
    return Additions(copied, model, method, targets, names)


def _by_library(model: nn.Module, targets: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the attentions among targets, which peft is not asked to adapt, and the layers, which it is."""
    attentions = [name for name in targets if isinstance(model.get_submodule(name), nn.MultiheadAttention)]
    return attentions, {name: what for name, what in targets.items() if name not in attentions}
