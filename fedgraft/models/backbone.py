"""A backbone that stays frozen, whatever is done to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedgraft.errors import ModelError, listed, nearest
from fedgraft.models.blocks import Blocks
from fedgraft.models.cuts import Architecture, Segment, pool, pool_stages, run_stages, split, stages_between
from fedgraft.models.info import BackboneInfo
from fedgraft.models.unfreeze_settings import INPUT, UnfreezeSettings
from fedgraft.models.weights import state_arrays

M = TypeVar("M", bound=nn.Module)


class Backbone(nn.Module):
    """A whole pretrained model, cut and frozen: gradients off, batch-norm, dropout and stochastic depth still.

    Attributes:
        info: What it is; `info.feature_dim` is the length of a feature vector.
        model: The model as its library made it, classifier included.
    """

    def __init__(self, model: nn.Module, architecture: Architecture, info: BackboneInfo) -> None:
        super().__init__()
        self.info = info
        self.model = freeze(model)
        self._architecture = architecture
        self._channels_last = architecture.num_prefix_tokens is None
        if self._channels_last:
            self.model.to(memory_format=torch.channels_last)
        freeze(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the pooled activation at the cut, `(N, feature_dim)`, as a graph that can be exported."""
        return pooled(self.model, self._architecture, self.info.cut, self.info.pooling, inputs)

    def features(self, inputs: Tensor) -> Tensor:
        """Return `(N, feature_dim)` float32 for inputs `(N, *info.preprocessing.input_shape)`.

        Images are normalised float32.

        Raises:
            ModelError: inputs of another shape.
        """
        steps = self.info.preprocessing
        if not steps.fits(tuple(inputs.shape)):
            expected = ", ".join(["N", *map(str, steps.input_shape)])
            raise ModelError(f"came {steps.takes} {tuple(inputs.shape)}; {self.info.name} takes ({expected})")
        if len(inputs) == 0:
            return torch.zeros(0, self.info.feature_dim, device=inputs.device)
        with torch.inference_mode():
            features = self.forward(self._fast(inputs))
        return features.float().clone()  # an inference tensor could not meet a head that is trained

    def features_at(self, poolings: Mapping[str, str], inputs: Tensor) -> Tensor:
        """Return `features` at several cuts from one pass, side by side in the order of the backbone's cuts.

        Args:
            poolings: how each cut is pooled, as its own `info.pooling` says.
            inputs: as `features` takes them.
        """
        parts: list[Tensor] = []
        with torch.inference_mode():
            x = self._fast(inputs)
            last = None
            for cut in (cut for cut in self.info.cuts if cut in poolings):
                stages, pooling = stages_between(self._architecture, last, cut), poolings[cut]
                x, last = run_stages(self._architecture, pooling, stages, self.model, x), cut
                architecture = self._architecture
                parts.append(pool(x, pooling, architecture.num_prefix_tokens, architecture.is_masked).float())
        return torch.cat(parts, dim=1)

    def _fast(self, inputs: Tensor) -> Tensor:
        """Return inputs in the order of memory in which convolutions are fastest."""
        return (
            inputs.contiguous(memory_format=torch.channels_last) if self._channels_last and inputs.ndim == 4 else inputs
        )

    def prefix(self, cut: str) -> Segment:
        """Return the module from inputs to the raw activation at a cut; it shares this backbone's tensors.

        Raises:
            ModelError: no such cut.
        """
        return freeze(split(self.model, self._architecture, checked_cut(self.info.name, self.info.cuts, cut))[0])

    def suffix(self, cut: str) -> Segment:
        """Return the module from the raw activation at a cut to the pretrained classifier's logits.

        It is frozen and shares this backbone's tensors; to train it, `thaw(copy.deepcopy(suffix))`.

        Raises:
            ModelError: no such cut.
        """
        return freeze(split(self.model, self._architecture, checked_cut(self.info.name, self.info.cuts, cut))[1])

    def blocks(self, cut: str, unfreeze: UnfreezeSettings | None = None) -> Blocks:
        """Return what lies between a cut, or `input`, and the cut where the head sits, to be trained.

        Args:
            cut: where it begins.
            unfreeze: what of it is trained, and whose batch norm is; by default all, and everybody's.

        Raises:
            ModelError: no such cut, or nothing lies between.
        """
        before = self.info.cuts[: self.info.cuts.index(self.info.cut)]
        start = checked_cut(self.info.name, (INPUT, *before), cut)
        return Blocks(self.model, self._architecture, self.info, start, unfreeze)

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return a copy of all parameters and buffers under the model's own full names."""
        return state_arrays(self.model)


class Identity(nn.Module):
    """The backbone of a source that gives ready features: passes them on."""

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        self.info = info

    def forward(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features

    def features(self, features: Tensor) -> Tensor:
        """Return the features `(N, D)` as float32."""
        return features.float()

    def prefix(self, cut: str) -> nn.Module:
        """Return the identity."""
        checked_cut(self.info.name, self.info.cuts, cut)
        return nn.Identity()

    suffix = prefix

    def blocks(self, cut: str, unfreeze: UnfreezeSettings | None = None) -> Blocks:
        """Refuse: there are none.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"the backbone {self.info.name} has no blocks to train past '{cut}'; leave unfreeze out")

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Return nothing: there are no weights."""
        return {}


def checked_cut(name: str, cuts: tuple[str, ...], cut: str) -> str:
    """Return the cut.

    Raises:
        ModelError: the backbone lacks it; the names are listed.
    """
    if cut not in cuts:
        raise ModelError(f"{name} has no cut '{cut}'; its cuts are: {listed(cuts, 40)}{nearest(cut, cuts)}")
    return cut


def pooled(model: nn.Module, architecture: Architecture, cut: str, pooling: str, inputs: Tensor) -> Tensor:
    """Return the activation of `inputs` at a cut as `(N, D)`, pooled by `mean`, `class_token` or `own`."""
    return pool_stages(architecture, pooling, stages_between(architecture, None, cut), model, inputs)


def freeze(module: M) -> M:
    """Switch gradients off and set every sub-module to eval for good: a later `.train()` anywhere does nothing."""
    module.requires_grad_(False)
    module.eval()
    for part in module.modules():
        part.train = partial(_stay, part)  # type: ignore[method-assign]
    return module


def thaw(module: M) -> M:
    """Undo `freeze`: gradients on, and `.train()` works again (the mode is still eval)."""
    for part in module.modules():
        part.__dict__.pop("train", None)
    return module.requires_grad_(True)


def _stay(module: M, mode: bool = True) -> M:
    return module
