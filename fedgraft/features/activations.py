"""What goes into blocks that are trained: un-pooled activations at a cut, kept in the feature store by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedgraft.data.samples import Samples
from fedgraft.errors import StoreError
from fedgraft.features.extract import Progress, compute, origin_of
from fedgraft.features.reuse import copy_repeated_rows, copy_stored_rows
from fedgraft.features.rows import RowWriter
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.kinds import check_kind
from fedgraft.models.backbone import Backbone
from fedgraft.models.blocks import Blocks
from fedgraft.models.registry import load
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import INPUT, UnfreezeSettings
from fedgraft.progress import report


@dataclass(frozen=True)
class Unfrozen:
    """Blocks past a cut, and what goes into them.

    Attributes:
        blocks: as functions of their arrays.
        activations: `(num_samples, *shape)` of all samples at the cut, mapped from the store and read-only.
    """

    blocks: Blocks
    activations: NDArray[Any]


def unfrozen(
    samples: Samples,
    backbone: BackboneSettings,
    cut: str,
    settings: FeatureSettings,
    weights: Mapping[str, NDArray[Any]] | None = None,
    progress: Progress | None = None,
    store: FeatureStore | None = None,
    unfreeze: UnfreezeSettings | None = None,
) -> Unfrozen:
    """Return the blocks past a cut and the activations of all samples there, found in the store or computed.

    Args:
        samples: whose.
        backbone: which backbone; the head sits at its cut.
        cut: where the blocks begin: a cut before the backbone's own, or `input`.
        settings: dtype and batch size, and how much the activations may take.
        weights: the backbone's weights where they came over the wire; by default those that the settings name.
        progress: told how many inputs are computed.
        store: by default this machine's own.
        unfreeze: what of the blocks is trained, and whose batch norm is; by default all, and everybody's.

    Raises:
        DataError: the samples are of another kind than the backbone takes.
        ModelError: the backbone has no such cut, or nothing to train past it.
        StoreError: the activations take more room than they may, or than there is.
    """
    loaded = cast("Backbone", load(backbone, weights))
    check_kind(backbone.name, loaded.info.takes, samples.kind)
    if cut == INPUT and loaded.info.takes == "texts" and settings.dtype == "float16":
        raise StoreError(
            "the numbers of tokens at the cut 'input' don't fit float16; set `features.dtype: float32`, or another cut"
        )
    blocks = loaded.blocks(cut, unfreeze)
    shape = (samples.num_samples, *blocks.activation_shape)
    if samples.num_samples == 0:
        return Unfrozen(blocks, np.zeros(shape, dtype=settings.dtype))
    store = store if store is not None else FeatureStore()
    origin = origin_of(loaded.info, samples, blocks.key, f"{cut}, not pooled")
    sample_digests = samples.sample_digests()

    def rows_of(inputs: Tensor) -> Tensor:
        return blocks.activations(inputs).flatten(1)

    def fill(rows: RowWriter) -> None:
        report("note", text=_room(shape, cut, settings))
        rows.allocate(int(np.prod(blocks.activation_shape)))
        missing = copy_stored_rows(rows, store, origin.backbone_key, sample_digests)
        if len(missing):
            compute(samples, loaded, missing, rows.write, settings.batch_size, progress, rows_of)
        copy_repeated_rows(rows, sample_digests)

    flat = store.get_or_fill(origin, settings.dtype, sample_digests, fill)
    return Unfrozen(blocks, flat.reshape(shape))


def forecast(
    backbone: BackboneSettings, unfreeze: UnfreezeSettings, settings: FeatureSettings, num_samples: int, num_head: int
) -> Iterator[str]:
    """Yield a line about each step of a schedule: what is trained, what travels, and what is stored.

    Args:
        backbone: which backbone; the head sits at its cut.
        unfreeze: the schedule.
        settings: how activations are stored.
        num_samples: samples in all.
        num_head: parameters of the head.

    Raises:
        StoreError: the activations of a cut take more room than they may.
    """
    loaded = load(backbone)
    for step in unfreeze.steps:
        blocks = loaded.blocks(step.cut, unfreeze)
        number = sum(value.size for value in blocks.pretrained.values())
        yield (
            f"from round {step.round}: {blocks.what}{number:,} parameters past '{step.cut}' are trained with the head; "
            f"{4 * (number + num_head):,} bytes each way a shard and round"
        )
        if unfreeze.method.name != "full":
            times = (blocks.num_parameters + num_head) / (number + num_head)
            full = f"{4 * (blocks.num_parameters + num_head):,} bytes, {times:,.1f} times as many"
            yield f"full fine-tuning past '{step.cut}' would be {full}"
        yield _room((num_samples, *blocks.activation_shape), step.cut, settings)


def _room(shape: tuple[int, ...], cut: str, settings: FeatureSettings) -> str:
    """Return how much room activations take, in words; refuse more than they may.

    Raises:
        StoreError: says what would take less.
    """
    size = int(np.prod(shape)) * np.dtype(settings.dtype).itemsize
    each = " x ".join(map(str, shape[1:]))
    text = f"activations at '{cut}': {shape[0]:,} samples x {each} {settings.dtype} = {size / 1e6:,.1f} MB"
    if size > settings.activations_limit_gb * 1e9:
        raise StoreError(
            f"{text}, more than features.activations_limit_gb ({settings.activations_limit_gb:g} GB); take a cut "
            "nearer to the head, a smaller backbone.input_size or features.dtype float16, or raise the limit"
        )
    return f"{text} in the feature store"
