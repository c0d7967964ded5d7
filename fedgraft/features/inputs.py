"""Batches of what a backbone takes, one reader a kind of inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from fedgraft.data.samples import Samples
    from fedgraft.models.backbone import Backbone
    from fedgraft.models.preprocessing import ImagePreprocessing, SoundPreprocessing

PIXELS_AT_ONCE = 64 * 64 * 64
"""Pixels of a batch on a CPU. Activations above 32 MB are mapped and unmapped by the C library each time they are
needed: EfficientNet-Lite0 at 224 px does 31 images/s in batches of 4, 22 in batches of 8 and 10 in batches of 64
(one thread; 0, 1176 and 10612 page faults an image)."""

VALUES_AT_ONCE = 64 * 2 * 16_000
"""Values of the sounds of a batch on a CPU: 64 sounds of 2 s at 16 kHz."""

Read = Callable[[NDArray[np.int64]], Any]
"""Returns the inputs at some indices, as the source's reader of their kind does; several threads may call it."""

Batches = Iterator[tuple[NDArray[np.int64], "Tensor"]]
"""`(indices, inputs)` of each batch: what the backbone takes, on its device. Batches may come in any order."""


def read_of(samples: Samples) -> Read:
    """Return what reads the inputs of samples that are not features yet."""
    readers: dict[Kind, Read] = {
        "images": samples.images,
        "texts": samples.texts,
        "sounds": samples.sounds_at_rate,
    }
    return readers[samples.kind]


def batches_of(backbone: Backbone, read: Read, indices: NDArray[np.int64], batch_size: int) -> Batches:
    """Yield the inputs at some indices, prepared as the backbone says.

    Args:
        backbone: what they are for.
        read: returns the inputs at some indices.
        indices: which of them.
        batch_size: how many at once, at most.
    """
    return _KINDS[backbone.info.takes](backbone, read, indices, batch_size)


def images_at_once(input_size: int, batch_size: int) -> int:
    """Return the images of a batch on a CPU: `batch_size`, or fewer if they are large."""
    return min(batch_size, max(1, PIXELS_AT_ONCE // input_size**2))


def _images(backbone: Backbone, read: Read, indices: NDArray[np.int64], batch_size: int) -> Batches:
    """Pictures, read and resized by threads, `(n, 3, input_size, input_size)` normalised."""
    from fedgraft.features.preprocessing import normalised
    from fedgraft.features.reading import batches

    steps = cast("ImagePreprocessing", backbone.info.preprocessing)
    device = next(backbone.parameters()).device
    if device.type == "cpu":
        batch_size = images_at_once(steps.input_size, batch_size)
    for batch, pixels in batches(read, indices, batch_size, steps):
        yield batch, normalised(pixels.to(device), steps)


def _sounds(backbone: Backbone, read: Read, indices: NDArray[np.int64], batch_size: int) -> Batches:
    """Sounds, `(n, num_values)`."""
    from fedgraft.features.sounds import filled

    steps = cast("SoundPreprocessing", backbone.info.preprocessing)
    device = next(backbone.parameters()).device
    if device.type == "cpu":
        batch_size = min(batch_size, max(1, VALUES_AT_ONCE // steps.num_values))
    for start in range(0, len(indices), batch_size):
        batch = indices[start : start + batch_size]
        yield batch, filled(read(batch), steps).to(device)


def _texts(backbone: Backbone, read: Read, indices: NDArray[np.int64], batch_size: int) -> Batches:
    """Texts as rows of tokens, `(n, T, 2)`."""
    from fedgraft.features.texts import batches

    return batches(backbone, read, indices, batch_size)


_KINDS: dict[Kind, Callable[[Backbone, Read, NDArray[np.int64], int], Batches]] = {
    "images": _images,
    "sounds": _sounds,
    "texts": _texts,
}
