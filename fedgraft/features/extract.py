"""The features of a federation's samples: found in the store, or computed and put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import DataError, ModelError, listed
from fedgraft.features.entry import Origin
from fedgraft.features.preprocessing import REVISION, normalised
from fedgraft.features.reading import batches
from fedgraft.features.reuse import copy_repeated_rows, copy_stored_rows
from fedgraft.features.rows import RowWriter
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.models.info import BackboneInfo
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings

if TYPE_CHECKING:
    from torch import Tensor

    from fedgraft.data.samples import Samples
    from fedgraft.models.backbone import Backbone

PIXELS_AT_ONCE = 64 * 64 * 64
"""Pixels of a batch on a CPU. Activations above 32 MB are mapped and unmapped by the C library each time they are
needed: EfficientNet-Lite0 at 224 px does 31 images/s in batches of 4, 22 in batches of 8 and 10 in batches of 64
(one thread; 0, 1176 and 10612 page faults an image)."""

Progress = Callable[[int, int], None]
"""Called with the pictures done and those to do, first with 0; not at all when nothing is to be computed."""


def features_of(
    samples: Samples,
    backbone: BackboneSettings,
    settings: FeatureSettings,
    *,
    store: FeatureStore | None = None,
    progress: Progress | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> NDArray[Any]:
    """Return the features of all samples, `(num_samples, feature_dim)`, mapped from the store and read-only.

    Samples whose features stand in any entry of the same backbone are not computed again. A call that finds
    everything imports neither torch nor timm.

    Args:
        samples: whose; with the backbone `identity` their own features are returned as they are.
        backbone: which backbone, up to which cut.
        settings: dtype and batch size.
        store: by default this machine's own.
        progress: told how many pictures are computed.
        weights: the backbone's weights where they came over the wire; by default those that the settings name.

    Raises:
        DataError: the samples are no images, or an image can't be read.
        ModelError: the backbone can't be had, or gives features that are not finite.
        StoreError: the store can't be written or read.
    """
    if backbone.name == "identity":
        return samples.features()
    if samples.kind != "images":
        raise DataError(
            f"the backbone {backbone.name} needs images, this source gives ready features; "
            "set `backbone: identity` or choose a source of images"
        )
    loaded = load(backbone, weights) if weights is not None else None
    info = loaded.info if loaded is not None else describe(backbone)
    if samples.num_samples == 0:
        return np.zeros((0, info.feature_dim), dtype=settings.dtype)
    store = store if store is not None else FeatureStore()
    origin = origin_of(info, samples, info.key(), info.cut)
    sample_digests = samples.sample_digests()

    def fill(rows: RowWriter) -> None:
        rows.allocate(info.feature_dim)
        missing = copy_stored_rows(rows, store, origin.backbone_key, sample_digests)
        if len(missing):
            network = loaded if loaded is not None else load(backbone)
            compute(samples, cast("Backbone", network), missing, rows.write, settings.batch_size, progress)
        copy_repeated_rows(rows, sample_digests)

    return store.get_or_fill(origin, settings.dtype, sample_digests, fill)


def compute(
    samples: Samples,
    backbone: Backbone,
    indices: NDArray[np.int64],
    write: Callable[[NDArray[np.int64], NDArray[np.float32]], None],
    batch_size: int,
    progress: Progress | None = None,
    of: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Compute features without a store: `write(indices, values (n, feature_dim))` is called batch by batch.

    Args:
        samples: whose.
        backbone: what computes them.
        indices: of which samples.
        write: called batch by batch.
        batch_size: pictures at once, at most.
        progress: told how many pictures are computed.
        of: what is computed of normalised pictures, as rows; default: the backbone's features.

    Raises:
        ModelError: a feature is not finite.
    """
    of = of if of is not None else backbone.features
    preprocessing = backbone.info.preprocessing
    device = next(backbone.parameters()).device
    report = progress if progress is not None else lambda done, total: None
    done = 0
    report(done, len(indices))
    if device.type == "cpu":
        batch_size = images_at_once(preprocessing.input_size, batch_size)
    for batch, pixels in batches(samples.images, indices, batch_size, preprocessing):
        values = of(normalised(pixels.to(device), preprocessing)).cpu().numpy()
        if not np.isfinite(values).all():
            bad = batch[~np.isfinite(values).all(axis=1)]
            raise ModelError(
                f"{backbone.info.name} gives NaN or infinite features for {len(bad)} of {len(batch)} pictures "
                f"({listed(samples.sample_ids[bad].tolist(), 3)}); look at its weights and normalisation"
            )
        write(batch, values)
        done += len(batch)
        report(done, len(indices))


def images_at_once(input_size: int, batch_size: int) -> int:
    """Return the images of a batch on a CPU: `batch_size`, or fewer if they are large."""
    return min(batch_size, max(1, PIXELS_AT_ONCE // input_size**2))


def origin_of(info: BackboneInfo, samples: Samples, key: str, cut: str) -> Origin:
    """Return where an entry of the store comes from.

    Args:
        info: the backbone.
        samples: whose rows it holds.
        key: the digest of all but the pictures that decides a row.
        cut: where the backbone is cut, in words.
    """
    steps = info.preprocessing
    first, last = samples.sample_ids[0], samples.sample_ids[-1]
    return Origin(
        backbone_key=f"{key}-{REVISION}",
        backbone=info.name,
        cut=cut,
        weights_digest=info.weights_digest,
        preprocessing=f"{steps.input_size} px, {steps.interpolation}, mean {steps.mean}, std {steps.std}",
        source=f"{samples.num_samples} images, {first} to {last}",
    )
