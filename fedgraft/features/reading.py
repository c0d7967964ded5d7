"""Pictures are read and resized by threads while the backbone works on those before them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedgraft.features.preprocessing import Images, resized

if TYPE_CHECKING:
    from torch import Tensor

    from fedgraft.models.preprocessing import ImagePreprocessing

READ_BYTES = 48 * 2**20
"""Decoded pictures that one thread holds at a time: 64 photos of 12 megapixels would be 2.3 GB."""

UNIT = 16
"""Pictures that one thread reads at a time: a batch of 64 then keeps several threads busy."""


def batches(
    read: Callable[[NDArray[np.int64]], Images],
    indices: NDArray[np.int64],
    batch_size: int,
    preprocessing: ImagePreprocessing,
    num_threads: int | None = None,
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield `(indices, pictures (n, 3, size, size) uint8)` of each batch, in order, at least two batches ahead.

    Args:
        read: returns the pictures at some indices; several threads call it.
        indices: which pictures.
        batch_size: pictures a batch; the last one may be smaller.
        preprocessing: the size that they get.
        num_threads: threads that read; by default one a core, at most 8.
    """
    import torch

    num_threads = min(os.cpu_count() or 1, 8) if num_threads is None else num_threads
    largest = 1  # bytes of the largest picture so far

    def read_unit(unit: NDArray[np.int64]) -> Tensor:
        nonlocal largest
        done, parts = 0, []
        while done < len(unit):
            # The size of the first pictures is not known yet: try one.
            count = 1 if largest == 1 else max(1, READ_BYTES // largest)
            pictures = read(unit[done : done + count])
            largest = max(largest, *(picture.nbytes for picture in pictures))
            parts.append(resized(pictures, preprocessing))
            done += count
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="reading pictures")
    num_units = -(-batch_size // UNIT)  # of a batch
    num_ahead = max(2, -(-2 * num_threads // num_units))
    ahead: deque[tuple[NDArray[np.int64], list[Future[Tensor]]]] = deque()
    try:
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            units = [batch[first : first + UNIT] for first in range(0, len(batch), UNIT)]
            ahead.append((batch, [pool.submit(read_unit, unit) for unit in units]))
            if len(ahead) > num_ahead:
                yield _joined(*ahead.popleft())
        while ahead:
            yield _joined(*ahead.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _joined(batch: NDArray[np.int64], units: list[Future[Tensor]]) -> tuple[NDArray[np.int64], Tensor]:
    import torch

    parts = [unit.result() for unit in units]
    return batch, parts[0] if len(parts) == 1 else torch.cat(parts)
