"""One lock a key, held by a process and freed by the kernel when that process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def _is_still_named(handle: int, path: Path) -> bool:
    """Return whether `path` still names the open file: its last holder may have removed it meanwhile."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(handle)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _acquire(path: Path, wait: bool, on_wait: Callable[[], None] | None) -> int | None:
    """Return the handle of the locked file, or None if another holds it and `wait` is false."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    os.close(handle)
                    return None
                _wait(handle, on_wait)
            if _is_still_named(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _wait(handle: int, on_wait: Callable[[], None] | None) -> None:
    """Wait for the lock; say so only if it takes a while, as many hold a lock for a moment."""
    for _ in range(50):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.01)
    if on_wait is not None:
        on_wait()
    fcntl.flock(handle, fcntl.LOCK_EX)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock file `path` for the block; yield whether it was had (always true with `wait`).

    It excludes other processes and other threads alike. The file is removed at the end, so that a store does
    not fill with lock files; whoever waited for a removed file notices that and opens the new one.

    Args:
        path: the lock file; its folder must exist.
        wait: wait for whoever holds it; otherwise yield false at once.
        on_wait: called once if it takes more than half a second.

    Raises:
        OSError: the folder can't be written, or its file system has no locks.
    """
    handle = _acquire(path, wait, on_wait)
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)  # closing gives the lock back
