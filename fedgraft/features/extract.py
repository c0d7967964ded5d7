"""The features of a federation's samples: found in the store, or computed and put there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import ModelError, listed
from fedgraft.features.entry import Origin
from fedgraft.features.inputs import batches_of, read_of
from fedgraft.features.preprocessing import REVISION
from fedgraft.features.reuse import copy_repeated_rows, copy_stored_rows
from fedgraft.features.rows import RowWriter
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.features.texts import tell_of_cut_texts
from fedgraft.kinds import check_kind
from fedgraft.models.info import BackboneInfo
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings

if TYPE_CHECKING:
    from torch import Tensor

    from fedgraft.data.samples import Samples
    from fedgraft.models.backbone import Backbone

Progress = Callable[[int, int], None]
"""Called with the inputs done and those to do, first with 0; not at all when nothing is to be computed."""


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
        progress: told how many inputs are computed.
        weights: the backbone's weights where they came over the wire; by default those that the settings name.

    Raises:
        DataError: the samples are of another kind than the backbone takes, or one can't be read.
        ModelError: the backbone can't be had, or gives features that are not finite.
        StoreError: the store can't be written or read.
    """
    loaded = cast("Backbone", load(backbone, weights)) if weights is not None and backbone.name != "identity" else None
    info = loaded.info if loaded is not None else describe(backbone)
    check_kind(backbone.name, info.takes, samples.kind)
    if info.takes == "features":
        return samples.features()
    if samples.num_samples == 0:
        return np.zeros((0, info.feature_dim), dtype=settings.dtype)
    store = store if store is not None else FeatureStore()
    origin = origin_of(info, samples, info.key(), info.cut)
    sample_digests = samples.sample_digests()
    if info.takes == "texts":
        tell_of_cut_texts(samples, info, lambda: loaded if loaded is not None else cast("Backbone", load(backbone)))

    def fill(rows: RowWriter) -> None:
        rows.allocate(info.feature_dim)
        missing = copy_stored_rows(rows, store, origin.backbone_key, sample_digests)
        if len(missing):
            network = loaded if loaded is not None else cast("Backbone", load(backbone))
            compute(samples, network, missing, rows.write, settings.batch_size, progress)
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
        batch_size: inputs at once, at most.
        progress: told how many inputs are computed.
        of: what is computed of inputs as the backbone takes them, as rows; default: the backbone's features.

    Raises:
        ModelError: a feature is not finite.
    """
    of = of if of is not None else backbone.features
    report = progress if progress is not None else lambda done, total: None
    done = 0
    report(done, len(indices))
    for batch, inputs in batches_of(backbone, read_of(samples), indices, batch_size):
        values = of(inputs).cpu().numpy()
        if not np.isfinite(values).all():
            bad = batch[~np.isfinite(values).all(axis=1)]
            raise ModelError(
                f"{backbone.info.name} gives NaN or infinite features for {len(bad)} of {len(batch)} {samples.kind} "
                f"({listed(samples.sample_ids[bad].tolist(), 3)}); look at its weights and normalisation"
            )
        write(batch, values)
        done += len(batch)
        report(done, len(indices))


def origin_of(info: BackboneInfo, samples: Samples, key: str, cut: str) -> Origin:
    """Return where an entry of the store comes from.

    Args:
        info: the backbone.
        samples: whose rows it holds.
        key: the digest of all but the inputs that decides a row.
        cut: where the backbone is cut, in words.
    """
    first, last = samples.sample_ids[0], samples.sample_ids[-1]
    return Origin(
        backbone_key=f"{key}-{REVISION}",
        backbone=info.name,
        cut=cut,
        weights_digest=info.weights_digest,
        preprocessing=info.preprocessing.words(),
        source=f"{samples.num_samples} {samples.kind}, {first} to {last}",
    )
