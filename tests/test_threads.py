"""Numbers of threads hold inside a block and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from fedgraft.threads import in_order, numpy_threads, torch_threads


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


@pytest.mark.parametrize("number", [1, 2, 4])
def test_jobs_come_in_their_order_each_on_one_thread_of_torch(number: int) -> None:
    """Job k sleeps the less the later it comes, so that later ones are done first where threads allow it."""
    running: set[str] = set()

    def job(k: int) -> tuple[int, int]:
        running.add(threading.current_thread().name)
        time.sleep(0.002 * (8 - k))
        return k, torch.get_num_threads()

    before = torch.get_num_threads()
    with torch_threads(3):
        done = list(in_order((lambda k=k: job(k) for k in range(8)), number))
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    assert done == [(k, 1) for k in range(8)]
    assert len(running) == number


@pytest.mark.parametrize("number", [1, 2])
def test_after_a_job_that_fails_few_are_begun(number: int) -> None:
    begun = []

    def jobs() -> Iterator[object]:
        for k in range(100):
            yield lambda k=k: begun.append(k) or 1 // (k != 3)

    with pytest.raises(ZeroDivisionError):
        list(in_order(jobs(), number))  # type: ignore[arg-type]  # a lambda's default argument
    assert 4 <= len(begun) <= 4 + 3 * number
