"""The data of a simulated federation in one process: loaded once, shared by server and hosts."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fedgraft.alignment.settings import AdaBn
from fedgraft.data.settings import DataSettings
from fedgraft.features.settings import FeatureSettings
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.unfreeze_settings import UnfreezeSettings
from fedgraft.progress import report

if TYPE_CHECKING:
    from fedgraft.data.federation import Federation
    from fedgraft.features.activations import Unfrozen


class Workspace:
    """A federation and the features of its samples; features are computed, or found in the store, when asked for."""

    def __init__(self, data: DataSettings, seed: int, backbone: BackboneSettings, features: FeatureSettings) -> None:
        from fedgraft.data.federation import build_federation

        self._backbone = backbone
        self._settings = features
        self._kept_digest: str | None = None
        self._weights: dict[str, NDArray[Any]] | None = None
        self._unfrozen: Unfrozen | None = None
        self._unfrozen_for: tuple[str, UnfreezeSettings | None] = ("", None)
        self._adapted: tuple[AdaBn, NDArray[Any]] | None = None
        self.federation: Federation = build_federation(data, seed)

    def use_weights(self, kept_digest: str | None) -> None:
        """Let features be those of kept weights (see `fedgraft.models.kept`), or for None of this machine's own.

        Features of other weights are let go: a process may serve runs of one backbone with unlike weights.

        Raises:
            ModelError: the kept weights are damaged.
        """
        if kept_digest != self._kept_digest:
            from fedgraft.models import kept

            self._weights = None if kept_digest is None else kept.load(kept_digest)
            self._kept_digest = kept_digest
            self._unfrozen = self._adapted = None
            self.__dict__.pop("features", None)

    def pooled(self) -> Workspace:
        """Return a workspace of the same samples in which one client, `everybody`, has all parts of all clients."""
        return self.with_federation(self.federation.pooled())

    def with_federation(self, federation: Federation) -> Workspace:
        """Return a workspace of the same samples with other parts; what is computed already is shared."""
        other = copy.copy(self)
        other.federation = federation
        other._adapted = None
        return other

    @functools.cached_property
    def features(self) -> NDArray[Any]:
        """Features of all samples, `(num_samples, feature_dim)`, memory-mapped from the store."""
        from fedgraft.features.extract import features_of

        def progress(done: int, total: int) -> None:
            report("progress", what="features", done=done, total=total)

        return features_of(
            self.federation.samples,
            self._backbone,
            self._settings,
            progress=progress,
            weights=self._weights,
        )

    def adapted(self, adabn: AdaBn) -> NDArray[Any]:
        """Return features of all samples by a backbone whose batch norm has the statistics of each client.

        Args:
            adabn: how they are estimated; the central test part has its own, by its groups.

        Raises:
            ModelError: the backbone has no batch norm.
        """
        if self._adapted is None or self._adapted[0] != adabn:
            from fedgraft.alignment.adabn import adapted_features

            def progress(done: int, total: int) -> None:
                report("progress", what="features", done=done, total=total)

            features = adapted_features(
                self.federation, self._backbone, adabn, self._settings, progress=progress, weights=self._weights
            )
            self._adapted = adabn, features
        return self._adapted[1]

    def unfrozen(self, cut: str, unfreeze: UnfreezeSettings | None = None) -> Unfrozen:
        """Return the blocks past a cut, or `input`, and what goes into them; the last ones are kept.

        Args:
            cut: where the blocks begin.
            unfreeze: what of them is trained, and whose batch norm is; by default all, and everybody's.

        Raises:
            ModelError: the backbone has no such cut, or nothing to train past it.
            StoreError: the activations take more room than they may, or than there is.
        """
        if self._unfrozen is None or self._unfrozen_for != (cut, unfreeze):
            from fedgraft.features.activations import unfrozen

            def progress(done: int, total: int) -> None:
                report("progress", what="activations", done=done, total=total)

            self._unfrozen = None  # before others are read
            samples, weights = self.federation.samples, self._weights
            self._unfrozen = unfrozen(
                samples, self._backbone, cut, self._settings, weights, progress, unfreeze=unfreeze
            )
            self._unfrozen_for = (cut, unfreeze)
        return self._unfrozen

    @property
    def num_outputs(self) -> int:
        """Outputs of a head: classes, labels, or target columns."""
        samples = self.federation.samples
        if samples.task == "classes":
            return len(samples.label_names)
        return 1 if samples.targets.ndim == 1 else int(samples.targets.shape[1])


@functools.lru_cache(maxsize=2)
def open_workspace(data: DataSettings, seed: int, backbone: BackboneSettings, features: FeatureSettings) -> Workspace:
    """Return this process's workspace for these settings; `open_workspace.cache_clear()` forgets it."""
    return Workspace(data, seed, backbone, features)
