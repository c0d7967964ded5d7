"""Progress events that another process writes into a file, reported here as they come."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from fedgraft.progress import report


def follower(path: Path) -> Callable[[], None]:
    """Return a function that reports the events which another process has appended to a file since the last call."""
    position = 0
    with contextlib.suppress(FileNotFoundError):
        position = path.stat().st_size  # a resumed run: what is there has been shown

    def follow() -> None:
        nonlocal position
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < position:
                position = 0  # the run began anew
            file.seek(position)
            lines = file.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            position += len(whole)
            for line in whole.splitlines():
                event = json.loads(line)
                report(event.pop("kind"), **event)

    return follow
