"""The folder in which a Ray of our own keeps its sockets and logs, for as long as a run: gone with it, or soon after.

A run that is killed can't remove its folder. So each folder holds a file that its run keeps locked, whatever process
id the run has in whatever container, and the next run removes the folders whose lock nobody holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "fg-ray-"
LOCK = "in-use"
YOUNG_SECONDS = 60.0
"""Age below which a folder is left alone: its run may not have locked it yet."""
_LONGEST_BASE = 20  # characters; Ray's sockets lie 83 deeper and Linux takes 107 in all


@contextlib.contextmanager
def ray_folder() -> Iterator[str]:
    """Make a folder, and remove it at the end of the block."""
    base = tempfile.gettempdir()
    base = base if len(base) <= _LONGEST_BASE else "/tmp"
    sweep(Path(base))
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=base)
    try:
        with (Path(folder) / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path) -> None:
    """Remove what runs that were killed have left below a folder."""
    for folder in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, or another run is removing it
            if time.time() - folder.stat().st_mtime < YOUNG_SECONDS:
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
