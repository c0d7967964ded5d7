"""Threads of torch and of NumPy: bits depend on their number, and small products are slower with many."""

from __future__ import annotations

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

T = TypeVar("T")


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


@contextlib.contextmanager
def numpy_threads(number: int) -> Iterator[None]:
    """Run the block with this number of threads in NumPy's linear algebra, then put the old number back.

    On a busy machine of two cores the eigenvectors of a 1280 x 1280 matrix take 1.1 s with one thread, 10 s with two.
    """
    with _libraries().limit(limits=number, user_api="blas"):
        yield


@functools.cache
def _libraries() -> ThreadpoolController:
    """Return the libraries of this process that have threads; to look for them takes 5 ms."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def in_order(jobs: Iterable[Callable[[], T]], number: int) -> Iterator[T]:
    """Yield what jobs return, in their order; each on one thread of torch and NumPy, `number` side by side.

    So no bit depends on the number of threads. When a job fails, those after it are not begun.
    """
    import torch

    with torch_threads(1), numpy_threads(1):
        if number == 1:
            for job in jobs:
                yield job()
            return
        with ThreadPoolExecutor(number, "training", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            ahead: deque[Future[T]] = deque()
            try:
                for job in jobs:
                    ahead.append(pool.submit(job))
                    if len(ahead) > 2 * number:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)
