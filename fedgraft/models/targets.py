"""Which modules past a cut get new parameters: chosen by the ends of their names, or by the kind of layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from fedgraft.errors import ModelError, listed
from fedgraft.models.method_settings import IA3, Adapter, Lora, WithTargets

KINDS: Mapping[str, tuple[type[nn.Module], ...]] = {
    "all-linear": (nn.Linear,),
    "all-conv": (nn.Conv2d,),
    "all-attention": (nn.MultiheadAttention,),
}
"""Words that stand for every layer of a kind."""

SCALED = ("qkv", "kv", "key", "value", "k", "v", "k_proj", "v_proj", "k_lin", "v_lin")
"""What layers that give keys and values are called: timm, transformers."""

SECOND = ("mlp.fc2", "mlp.3", "output.dense", "lin2", "ffn.fc2", "down_proj")
"""What the second layer of an MLP is called: timm, torchvision, transformers."""

SUBLAYERS = ("attn", "self_attention", "attention", "mlp", "ffn")
"""What attention and MLP of a transformer's block are called."""


def chosen(own: nn.Module, method: WithTargets, run: Callable[[], object], where: str) -> dict[str, str]:
    """Return what a method adapts of some blocks: full names of modules, and for each what of it, input or output.

    A layer whose weight is read past it, as `nn.MultiheadAttention` reads that of its `out_proj`, would be adapted in
    vain, so it can't be chosen.

    Args:
        own: the blocks, with modules under their full names.
        method: what to choose for.
        run: sends something through the blocks.
        where: which blocks they are, for errors: `past 'blocks.3' of timm:...`.

    Raises:
        ModelError: a pattern fits nothing that the method can adapt, or there is nothing; what there is is listed.
    """
    can = adaptable(own, method, run)
    if not can:
        raise ModelError(f"there is nothing {where} that {method.name} can adapt; take another method or cut")
    if isinstance(method, IA3):
        return _scaled(can, method, own, where)
    usual = _found(can, SUBLAYERS) if isinstance(method, Adapter) else list(can)
    if method.targets is None and not usual:
        text = f"null, but none of {', '.join(SUBLAYERS)} is there {where}"
        raise ModelError(f"unfreeze.method.targets came {text}; give modules: {listed(endings(can), 30)}")
    names = usual if method.targets is None else _matched(can, method, "targets", method.targets, own, where)
    return dict.fromkeys(names, "output")


def adaptable(own: nn.Module, method: WithTargets, run: Callable[[], object]) -> dict[str, nn.Module]:
    """Return the modules that a method can adapt, by full name, in the order of the model."""
    candidates = {name: module for name, module in own.named_modules() if name and _fits(module, method)}
    given = outputs(candidates, run)
    if isinstance(method, Adapter):
        tokens = {name: module for name, module in candidates.items() if name in given and given[name].ndim == 3}
        return {name: module for name, module in tokens.items() if next(module.parameters(), None) is not None}
    return {name: module for name, module in candidates.items() if name in given}


def outputs(modules: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, Tensor]:
    """Return what each module gives while something runs; modules that are not called are left out."""
    seen: dict[str, Tensor] = {}

    def note(name: str, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            seen[name] = first

    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def endings(names: Iterable[str]) -> list[str]:
    """Return the ends of names after their last block's number, each once: `attn.qkv` of `blocks.3.attn.qkv`.

    A number that is all there is after a name, as of a layer in `nn.Sequential`, stays: `mlp.3`.
    """
    ends = [re.sub(r"^.*?[._](\d+)\.(?=[A-Za-z])", "", name) for name in names]
    return list(dict.fromkeys(ends))


def _fits(module: nn.Module, method: WithTargets) -> bool:
    """Return whether a module is of a kind that a method can adapt."""
    if isinstance(method, Adapter):
        return True
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 or isinstance(method, IA3)
    if isinstance(module, nn.MultiheadAttention):
        return isinstance(method, Lora) and module._qkv_same_embed_dim
    return isinstance(module, nn.Linear)


def _scaled(can: Mapping[str, nn.Module], method: IA3, own: nn.Module, where: str) -> dict[str, str]:
    """Return whose outputs and whose inputs IA3 scales."""
    if method.targets is None and method.feedforward is None:
        names, inputs = _found(can, SCALED), _found(can, SECOND)
        names = names or ([] if inputs else [name for name in can if isinstance(can[name], nn.Conv2d)])
        if not names and not inputs:
            raise ModelError(
                f"unfreeze.method.targets came null, but {where} there are no layers of the usual names; "
                f"give some: {listed(endings(can), 30)}"
            )
    else:
        names = _matched(can, method, "targets", method.targets or (), own, where)
        inputs = _matched(can, method, "feedforward", method.feedforward or (), own, where)
    return {**dict.fromkeys(names, "output"), **dict.fromkeys(inputs, "input")}


def _found(can: Mapping[str, nn.Module], ends: Sequence[str]) -> list[str]:
    return [name for name in can if any(name == end or name.endswith(f".{end}") for end in ends)]


def _matched(
    can: Mapping[str, nn.Module], method: WithTargets, key: str, patterns: Sequence[str], own: nn.Module, where: str
) -> list[str]:
    """Return the names that any pattern fits.

    Raises:
        ModelError: a pattern fits none.
    """
    for pattern in patterns:
        if not any(_match(pattern, name, module) for name, module in can.items()):
            others = [part for name, part in own.named_modules() if name and _match(pattern, name, part)]
            kinds = listed(dict.fromkeys(type(part).__name__ for part in others))
            why = f"of which {method.name} can't adapt any ({kinds})" if others else "of which there are none"
            raise ModelError(
                f"unfreeze.method.{key} came '{pattern}', {why} {where}; "
                f"{method.name} can adapt: {listed(endings(can), 30)}"
            )
    return [name for name, module in can.items() if any(_match(pattern, name, module) for pattern in patterns)]


def _match(pattern: str, name: str, module: nn.Module) -> bool:
    if pattern in KINDS:
        return isinstance(module, KINDS[pattern])
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")
