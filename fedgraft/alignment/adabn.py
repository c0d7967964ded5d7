"""Features by a backbone whose batch norm takes the statistics of each domain.

Yanghao Li, Naiyan Wang, Jianping Shi, Jiaying Liu and Xiaodi Hou, "Revisiting batch normalization for practical domain
adaptation", 2016, arXiv:1603.04779, algorithm 1: in each layer the mean and variance of the domain's own images take
the place of those that the backbone was trained with; all weights stay. With `prior_samples` N of n images,
`N / (N + n)` of the pretrained mean and variance stays (Schneider et al., "Improving robustness against common
corruptions by covariate shift adaptation", NeurIPS 2020, arXiv:2006.16971, equation 3).

Differs from the paper: the images pass in batches, of each of which a layer is normalised by its own statistics, and
the domain's are the mean over the batches with the unbiased variance, which is what PyTorch's batch norm with
`momentum=None` gathers. A domain that fits one batch is the paper's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.alignment.aligned import Domain, domains_of_clients, domains_of_test
from fedgraft.alignment.settings import AdaBn
from fedgraft.errors import DataError, ModelError
from fedgraft.features.extract import Progress, compute, origin_of
from fedgraft.features.preprocessing import normalised
from fedgraft.features.reading import batches
from fedgraft.features.reuse import copy_repeated_rows, copy_stored_rows
from fedgraft.features.rows import RowWriter
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.kinds import check_kind
from fedgraft.models.preprocessing import digest_of
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fedgraft.data.federation import Federation
    from fedgraft.data.samples import Samples
    from fedgraft.models.backbone import Backbone
    from fedgraft.models.preprocessing import ImagePreprocessing

SCHEMA = 1
"""Part of every entry's key: it rises when this file changes the value of a feature."""

LEAST_IMAGES = 2
"""A domain of fewer has no statistics of its own, and keeps the pretrained ones."""


def adapted_features(
    federation: Federation,
    backbone: BackboneSettings,
    adabn: AdaBn,
    settings: FeatureSettings,
    *,
    store: FeatureStore | None = None,
    progress: Progress | None = None,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> NDArray[Any]:
    """Return features of all samples, `(num_samples, D)`, each by the statistics of its domain; mapped and read-only.

    A domain is a client, whose training images tell its statistics, or a group of the central test part. A row is
    found in the store if its picture and all the pictures that told its statistics are those of a row there, so that
    each client's frozen work is done once. Rows of samples that nobody has are zeros.

    Args:
        federation: whose samples.
        backbone: which backbone, up to which cut.
        adabn: how statistics are estimated.
        settings: dtype and batch size.
        store: by default this machine's own.
        progress: told how many pictures are computed.
        weights: the backbone's weights where they came over the wire; by default those that the settings name.

    Raises:
        DataError: the samples are no images, or an image can't be read.
        ModelError: the backbone can't be had, has no batch norm before its cut, or gives features that are not finite.
        StoreError: the store can't be written or read.
    """
    samples = federation.samples
    loaded = cast("Backbone", load(backbone, weights)) if weights is not None and backbone.name != "identity" else None
    info = loaded.info if loaded is not None else describe(backbone)
    check_kind(backbone.name, info.takes, samples.kind)
    if info.takes != "images":
        text = f"adabn is for pictures, and {backbone.name} takes {info.takes}"
        raise DataError(f"align: {text}; take coral, which aligns features of any kind")
    domains = [*domains_of_clients(federation), *domains_of_test(federation)]
    sample_digests = samples.sample_digests()
    row_digests = digests_of_rows(sample_digests, domains)
    key = digest_of(["adabn", SCHEMA, info.key(), adabn.model_dump(mode="json")])
    store = store if store is not None else FeatureStore()
    origin = origin_of(info, samples, key, f"{info.cut}, batch norm of each domain")

    def fill(rows: RowWriter) -> None:
        rows.allocate(info.feature_dim)
        missing = copy_stored_rows(rows, store, origin.backbone_key, row_digests)
        if len(missing):
            network = loaded if loaded is not None else cast("Backbone", load(backbone))
            nobodys = np.setdiff1d(missing, np.concatenate([domain.rows for domain in domains]))
            if len(nobodys):
                rows.write(nobodys, np.zeros((len(nobodys), info.feature_dim), dtype=np.float32))
            told = _counted(progress, len(missing) - len(nobodys))
            for domain in domains:
                own = np.intersect1d(domain.rows, missing)
                if len(own):
                    known = _by_content(domain.known, sample_digests)
                    with adapted(network, adabn, _pictures(samples, known, network, adabn), len(known)):
                        compute(samples, network, own, rows.write, settings.batch_size, told(len(own)))
        copy_repeated_rows(rows, row_digests)

    return store.get_or_fill(origin, settings.dtype, row_digests, fill)


def digests_of_rows(sample_digests: NDArray[np.uint8], domains: Iterable[Domain]) -> NDArray[np.uint8]:
    """Return digests of what decides each row, `(num_samples, 16)`: the picture, and those that tell its statistics."""
    digests = sample_digests.copy()
    for domain in domains:
        content = sample_digests[_by_content(domain.known, sample_digests)]
        known = hashlib.blake2b(np.ascontiguousarray(content).data, digest_size=16).digest()
        for row in domain.rows.tolist():
            own = hashlib.blake2b(sample_digests[row].tobytes() + known, digest_size=16)
            digests[row] = np.frombuffer(own.digest(), dtype=np.uint8)
    return digests


@contextmanager
def adapted(network: Backbone, settings: AdaBn, pictures: Iterable[Tensor], num_images: int) -> Iterator[None]:
    """Let a backbone's batch norm have the statistics of a domain for a while.

    Args:
        network: the backbone; as it was, afterwards.
        settings: how they are estimated.
        pictures: batches of the domain's images, normalised.
        num_images: how many they are in all; of fewer than `LEAST_IMAGES` nothing is changed.

    Raises:
        ModelError: no batch norm lies before the cut.
    """
    layers = [Layer(part) for part in norms_of(network)]
    share = num_images / (num_images + settings.prior_samples) if num_images >= LEAST_IMAGES else 0.0
    try:
        if share:
            _estimate(network, layers, pictures, share)
        yield
    finally:
        for layer in layers:
            layer.take(layer.mean, layer.variance, 0.0)


def norms_of(network: Backbone) -> list[nn.Module]:
    """Return the layers of batch norm that features pass through.

    Raises:
        ModelError: there are none.
    """
    import torch

    kind = torch.nn.modules.batchnorm._BatchNorm
    found: list[nn.Module] = []
    hooks = [
        part.register_forward_pre_hook(lambda module, _: found.append(module))
        for part in network.model.modules()
        if isinstance(part, kind) and part.running_mean is not None
    ]
    size = cast("ImagePreprocessing", network.info.preprocessing).input_size
    try:
        network.features(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ModelError(
            f"{network.info.name} has no batch norm before '{network.info.cut}', whose statistics align: adabn would "
            "adapt; take align: coral, or a backbone with batch norm (EfficientNet, ResNet)"
        )
    return list(dict.fromkeys(found))


@dataclass(eq=False)
class Layer:
    """One layer of batch norm: its pretrained statistics, and the sums of those of batches.

    Attributes:
        module: the layer.
        mean: pretrained, `(channels,)`.
        variance: pretrained, `(channels,)`.
        sums: of the batches' means and of their unbiased variances.
        count: batches.
    """

    module: Any
    mean: torch.Tensor = field(init=False)
    variance: torch.Tensor = field(init=False)
    sums: list[torch.Tensor] = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.mean, self.variance = self.module.running_mean, self.module.running_var
        self.sums = [self.mean.new_zeros(self.mean.shape) for _ in range(2)]

    def take(self, mean: torch.Tensor, variance: torch.Tensor, share: float) -> None:
        """Normalise by a share of these statistics and the rest of the pretrained ones."""
        self.module.running_mean = share * mean + (1 - share) * self.mean if share else self.mean
        self.module.running_var = share * variance + (1 - share) * self.variance if share else self.variance

    def see(self, x: torch.Tensor, share: float) -> None:
        """Add a batch `(n, channels, ...)`, and normalise it by its own statistics."""
        over = (0, *range(2, x.ndim))
        number = x.numel() // x.shape[1]
        mean, variance = x.mean(over), x.var(over, correction=0)
        self.sums[0] += mean
        self.sums[1] += variance * (number / (number - 1))
        self.count += 1
        self.take(mean, variance, share)


def _estimate(network: Backbone, layers: Iterable[Layer], pictures: Iterable[Tensor], share: float) -> None:
    """Let each layer have the mean of its batches' statistics, or a share of it."""

    def see(layer: Layer, module: Any, inputs: tuple[Tensor, ...]) -> None:
        layer.see(inputs[0], share)

    hooks = [layer.module.register_forward_pre_hook(partial(see, layer)) for layer in layers]
    try:
        for batch in pictures:
            network.features(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for layer in layers:
        mean, variance = (total / layer.count for total in layer.sums)
        layer.take(mean, variance, share)


def _pictures(samples: Samples, known: NDArray[np.int64], network: Backbone, settings: AdaBn) -> Iterator[Tensor]:
    """Yield the domain's images, normalised, in batches of the size that was set or somewhat more."""
    preprocessing = cast("ImagePreprocessing", network.info.preprocessing)
    for part in np.array_split(known, max(1, len(known) // settings.batch_size)):
        for _, pixels in batches(samples.images, part, max(1, len(part)), preprocessing):
            yield normalised(pixels, preprocessing)


def _by_content(rows: NDArray[np.int64], sample_digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return rows in an order that their pictures alone decide: data that come sorted by class are mixed by it."""
    return rows[np.lexsort(sample_digests[rows].T)]


def _counted(progress: Progress | None, total: int) -> Callable[[int], Progress | None]:
    """Return what makes, for the pictures of one domain after another, a report that counts those of all."""
    done = 0

    def of(number: int) -> Progress | None:
        nonlocal done
        before, done = done, done + number
        return None if progress is None else lambda now, _: progress(before + now, total)

    return of
