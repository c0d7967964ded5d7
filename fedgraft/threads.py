"""Threads of torch: bits depend on their number, and small products are slower with many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Run the block with this number of torch threads, then put the old number back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
