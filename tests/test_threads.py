"""Numbers of threads hold inside a block and no longer."""

from __future__ import annotations

import numpy as np
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from fedgraft.threads import numpy_threads, torch_threads


def numpy_now() -> set[int]:
    """Threads of every library of linear algebra in this process, as threadpoolctl reads them."""
    assert np.linalg.norm(np.eye(2)) > 0  # loaded
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_numpy_threads_hold_in_the_block_only() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        with numpy_threads(1):
            assert numpy_now() == {1}
        assert numpy_now() == {2}


def test_torch_threads_hold_in_the_block_only() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
