"""Models as chains of named stages: a cut is the end of a stage.

A model is read as `stage_0, ..., stage_n, classifier`; the last stage is `penultimate`. The prefix of a cut
runs the stages up to it, the suffix the rest, so one description serves features, feature dimensions, and
blocks that are trained past a moved cut. Stages name sub-modules by their full names and hold no module:
a deep copy of a model needs no new description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedgraft.models.unfreeze_settings import INPUT

PENULTIMATE = "penultimate"


@dataclass(frozen=True)
class Stage:
    """A named step: its `modules` applied in order, or `function(model, x)` where that isn't all.

    Every stage but the first names all the modules that hold its tensors, also if a function calls them;
    what no stage names belongs to the first.
    """

    name: str
    modules: tuple[str, ...] = ()
    function: Callable[[nn.Module, Tensor], Tensor] | None = None

    def run(self, model: nn.Module, x: Tensor) -> Tensor:
        """Apply the stage."""
        if self.function is not None:
            return self.function(model, x)
        for name in self.modules:
            x = model.get_submodule(name)(x)
        return x


@dataclass(frozen=True)
class Architecture:
    """How a family is cut.

    Attributes:
        stages: In order; the last is `penultimate` and returns `(N, D)`, or what `pool` makes `(N, D)` of.
        classifier: From there to logits; names its modules.
        own_pooling: What the family's own head does: `mean`, `class_token` or `own`.
        num_prefix_tokens: Tokens before the patches; None where activations are `(N, C, H, W)`.
        last_norm: The module that normalises tokens before the head pools them.
        is_masked: Whether the last channel of tokens says which there are, 1, and which only fill up, 0.
    """

    stages: tuple[Stage, ...]
    classifier: Stage
    own_pooling: str = "mean"
    num_prefix_tokens: int | None = None
    last_norm: str | None = None
    is_masked: bool = False

    @property
    def cuts(self) -> tuple[str, ...]:
        """Names of the cuts, input to output."""
        return tuple(stage.name for stage in self.stages)


class Segment(nn.Module):
    """A run of stages as a module whose parameters keep their full names.

    It shares its sub-modules with `model`: no tensor is copied.
    """

    def __init__(self, model: nn.Module, stages: Sequence[Stage], owned: Sequence[str]) -> None:
        super().__init__()
        self._model = [model]  # in a list, so that it isn't registered whole
        self._stages = tuple(stages)
        for name in owned:
            _place(self, name, model)

    def forward(self, x: Tensor) -> Tensor:
        """Run the stages on an activation (or on images, for the first)."""
        for stage in self._stages:
            x = stage.run(self._model[0], x)
        return x


def split(model: nn.Module, architecture: Architecture, cut: str) -> tuple[Segment, Segment]:
    """Return the prefix and the suffix of a cut; together they hold every tensor of the model once."""
    after = architecture.cuts.index(cut) + 1
    later = [*architecture.stages[after:], architecture.classifier]
    names = tuple(name for stage in later for name in stage.modules)
    prefix = Segment(model, architecture.stages[:after], tuple(_all_but(model, names)))
    return prefix, Segment(model, later, names)


def stages_between(architecture: Architecture, start: str | None, end: str) -> tuple[Stage, ...]:
    """Return the stages after a cut (None, or `input`: all) up to another (`input`: none)."""
    order = (INPUT, *architecture.cuts)
    first = 0 if start is None else order.index(start)
    return architecture.stages[first : order.index(end)]


def tensors_between(model: nn.Module, architecture: Architecture, start: str, end: str) -> tuple[str, ...]:
    """Return the full names of modules and bare tensors that belong to the stages after a cut up to another."""
    if start != INPUT:
        return tuple(name for stage in stages_between(architecture, start, end) for name in stage.modules)
    later = [*architecture.stages[architecture.cuts.index(end) + 1 :], architecture.classifier]
    return tuple(_all_but(model, [name for stage in later for name in stage.modules]))


def pool_stages(
    architecture: Architecture, pooling: str, stages: Sequence[Stage], model: nn.Module, x: Tensor
) -> Tensor:
    """Run stages, and pool what the last one gives to `(N, D)` by `mean`, `class_token` or `own`."""
    x = run_stages(architecture, pooling, stages, model, x)
    return pool(x, pooling, architecture.num_prefix_tokens, architecture.is_masked)


def run_stages(
    architecture: Architecture, pooling: str, stages: Sequence[Stage], model: nn.Module, x: Tensor
) -> Tensor:
    """Run stages, up to what `pool` makes one vector of by the same `pooling`."""
    differs = pooling not in ("own", architecture.own_pooling) and not architecture.is_masked
    for stage in stages:
        if stage.name == PENULTIMATE and differs:  # tokens, pooled otherwise than the model's own head does
            x = model.get_submodule(architecture.last_norm or "")(x)
        else:
            x = stage.run(model, x)
    return x


def pool(x: Tensor, pooling: str, num_prefix_tokens: int | None, is_masked: bool = False) -> Tensor:
    """Return `(N, D)` from `(N, D)`, `(N, C, H, W)` or tokens `(N, T, D)`; the mean leaves prefix tokens out.

    Of masked tokens, `(N, T, D + 1)`, it is the mean of all that there are.
    """
    if is_masked:
        hidden, mask = x[..., :-1], x[..., -1:]
        return hidden[:, 0] if pooling == "class_token" else (hidden * mask).sum(1) / mask.sum(1).clamp_min(1)
    if x.ndim == 4:
        return x.mean((2, 3))
    if x.ndim == 3:
        return x[:, 0] if pooling == "class_token" else x[:, num_prefix_tokens or 0 :].mean(1)
    return x


def flat_pool(_: nn.Module, x: Tensor) -> Tensor:
    """Average over space, `(N, C, H, W)` to `(N, C)`."""
    return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)


def _all_but(module: nn.Module, taken: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Yield the full names of sub-modules and direct tensors that hold nothing of `taken`."""
    for name, child in module.named_children():
        full = prefix + name
        if any(other.startswith(f"{full}.") for other in taken):
            yield from _all_but(child, taken, f"{full}.")
        elif full not in taken:
            yield full
    yield from (prefix + name for name, _ in module.named_parameters(recurse=False))
    yield from (prefix + name for name, _ in module.named_buffers(recurse=False))


def _place(root: nn.Module, full_name: str, model: nn.Module) -> None:
    """Register what `model` holds at a full name at the same full name of `root`."""
    *folders, last = full_name.split(".")
    source = model
    for folder in folders:
        source = source.get_submodule(folder)
        if folder not in dict(root.named_children()):
            root.add_module(folder, nn.Module())
        root = root.get_submodule(folder)
    value = getattr(source, last)
    if isinstance(value, nn.Module):
        root.add_module(last, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    else:
        root.register_buffer(last, value, persistent=last not in source._non_persistent_buffers_set)
