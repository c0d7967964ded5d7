"""The features of one backbone at several cuts, from one pass over the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.features.entry import Origin, entry_key
from fedgraft.features.extract import Progress, compute, origin_of
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


def store_at_cuts(
    samples: Samples,
    backbone: BackboneSettings,
    cuts: Sequence[str],
    settings: FeatureSettings,
    *,
    store: FeatureStore | None = None,
    progress: Progress | None = None,
) -> int:
    """Compute the features of all samples at those cuts that the store lacks, and keep them; return how many it lacked.

    A cut alone takes a pass up to it; all of them together take one pass up to the last. What `features_of` then
    returns for a cut has the same bits.

    Args:
        samples: whose; of the kind that the backbone takes.
        backbone: which backbone; its own cut plays no part.
        cuts: at least one.
        settings: dtype and batch size.
        store: by default this machine's own.
        progress: told how many inputs are computed.

    Raises:
        DataError: a sample can't be read.
        ModelError: the backbone can't be had, or gives features that are not finite at one of the cuts.
        StoreError: the store can't be written or read.
    """
    store = store if store is not None else FeatureStore()
    digests = samples.sample_digests()
    infos = {cut: describe(replace_cut(backbone, cut)) for cut in dict.fromkeys(cuts)}
    places = [_place(info, samples, settings.dtype, digests) for info in infos.values()]
    lacking = [place for place in places if store.get(place.key) is None] if samples.num_samples else []
    if lacking:
        _Pass(samples, backbone, lacking, settings, store, digests, progress).run()
    return len(lacking)


def replace_cut(backbone: BackboneSettings, cut: str) -> BackboneSettings:
    """Return the same backbone, cut elsewhere."""
    return backbone.model_copy(update={"cut": cut})


@dataclass(frozen=True)
class _Place:
    """Where the features at one cut belong."""

    info: BackboneInfo
    origin: Origin
    key: str


def _place(info: BackboneInfo, samples: Samples, dtype: str, digests: NDArray[np.uint8]) -> _Place:
    origin = origin_of(info, samples, info.key(), info.cut)
    return _Place(info, origin, entry_key(origin.backbone_key, dtype, digests))


class _Pass:
    """One pass that writes several entries of the store at once.

    Their locks are taken in the order of their keys, so that two processes never wait for each other.
    """

    def __init__(
        self,
        samples: Samples,
        backbone: BackboneSettings,
        places: Sequence[_Place],
        settings: FeatureSettings,
        store: FeatureStore,
        digests: NDArray[np.uint8],
        progress: Progress | None,
    ) -> None:
        self._samples, self._backbone, self._settings = samples, backbone, settings
        self._store, self._digests, self._progress = store, digests, progress
        self._places = sorted(places, key=lambda place: place.key)
        self._writers: dict[str, RowWriter] = {}
        self._infos: dict[str, BackboneInfo] = {}
        self._missing: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def run(self, first: int = 0) -> None:
        """Open the entries from the given one on, each inside the one before, and compute inside the last."""
        if first == len(self._places):
            self._compute()
            return
        place, opened = self._places[first], False

        def fill(rows: RowWriter) -> None:
            nonlocal opened
            opened = True
            rows.allocate(place.info.feature_dim)
            missing = copy_stored_rows(rows, self._store, place.origin.backbone_key, self._digests)
            self._missing = np.union1d(self._missing, missing)
            self._writers[place.info.cut], self._infos[place.info.cut] = rows, place.info
            self.run(first + 1)
            copy_repeated_rows(rows, self._digests)

        self._store.get_or_fill(place.origin, self._settings.dtype, self._digests, fill)
        if not opened:  # another process has just computed it
            self.run(first + 1)

    def _compute(self) -> None:
        """Compute the rows that some entry lacks, and write them to all."""
        if not len(self._missing):
            return
        loaded = cast("Backbone", load(replace_cut(self._backbone, next(iter(self._infos)))))
        cuts = [cut for cut in loaded.info.cuts if cut in self._infos]
        poolings = {cut: self._infos[cut].pooling for cut in cuts}
        ends = np.cumsum([self._infos[cut].feature_dim for cut in cuts])

        def write(indices: NDArray[np.int64], values: NDArray[Any]) -> None:
            for cut, part in zip(cuts, np.split(values, ends[:-1], axis=1), strict=True):
                self._writers[cut].write(indices, part)

        def features(inputs: Tensor) -> Tensor:
            return loaded.features_at(poolings, inputs)

        compute(self._samples, loaded, self._missing, write, self._settings.batch_size, self._progress, features)
