"""LoRA and IA3 by the library peft: into a model's layers, and out of them again, into the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fedgraft.errors import ModelError
from fedgraft.models.download import no_telemetry
from fedgraft.models.method_settings import IA3, Lora

ITS_OWN = ("base_layer", "default")
"""Parts that peft puts into names: the layer inside, and what it calls the one adapter that there is."""


def inject(model: nn.Module, method: Lora | IA3, targets: Mapping[str, str]) -> dict[str, str]:
    """Put LoRA or IA3 into layers of a model, such that its outputs stay as they are.

    Args:
        model: is changed.
        method: which, and its settings.
        targets: full names of layers, and whether IA3 scales their `input` or `output`.

    Returns:
        The names of the new parameters without peft's own parts (`blocks.3.attn.qkv.lora_A.weight`), and as they are.

    Raises:
        ModelError: peft is not installed.
    """
    before = {name for name, _ in model.named_parameters()}
    no_telemetry()
    try:
        import peft
    except ImportError as error:
        text = f"unfreeze.method {method.name} needs peft, which can't be imported ({error})"
        raise ModelError(f"{text}; install it with: pip install 'fedgraft[peft]'") from error
    config: Any
    if isinstance(method, Lora):
        config = peft.LoraConfig(
            r=method.rank,
            lora_alpha=method.alpha,  # type: ignore[arg-type]  # it is only divided by the rank
            lora_dropout=0.0,
            target_modules=list(targets),
            bias="none",
        )
    else:
        inputs = [name for name, what in targets.items() if what == "input"]
        config = peft.IA3Config(target_modules=list(targets), feedforward_modules=inputs)
    with torch.random.fork_rng(devices=[]):  # where A starts is drawn elsewhere, as a function of the seed
        peft.inject_adapter_in_model(config, model)
    added = [name for name, value in model.named_parameters() if value.requires_grad and name not in before]
    return {".".join(part for part in name.split(".") if part not in ITS_OWN): name for name in added}


def merge(model: nn.Module, targets: Iterable[str], plain: nn.Module) -> None:
    """Put LoRA or IA3 of a model into the weights of a plain one; the model itself is of no use afterwards."""
    for name in targets:
        layer: Any = model.get_submodule(name)
        layer.merge()
        plain.get_submodule(name).load_state_dict(layer.get_base_layer().state_dict())
