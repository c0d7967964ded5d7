"""Processes below this one, from /proc: whom a library started, and whether they have ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

Process = tuple[int, str]
"""A process id and its start time, so that a later process of the same id is not taken for it."""

POLL_SECONDS = 0.02


def started_with(text: str) -> set[Process]:
    """Return this process's children whose command line holds a text, and everything below them.

    Empty where there is no /proc.
    """
    children: dict[int, list[Process]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(entry.name))
        if fields is not None:
            children.setdefault(int(fields[1]), []).append((int(entry.name), fields[19]))
    waiting = [child for child in children.get(os.getpid(), []) if text in _command(child[0])]
    found = set(waiting)
    while waiting:
        below = children.get(waiting.pop()[0], [])
        found.update(below)
        waiting.extend(below)
    return found


def end(processes: Iterable[Process], grace_seconds: float) -> None:
    """Wait for processes to end, and kill those that have not after a while."""
    deadline = time.monotonic() + grace_seconds
    remaining = set(processes)
    while remaining := {process for process in remaining if _alive(process)}:
        if time.monotonic() > deadline:
            for pid, _ in remaining:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline + grace_seconds:
                return
        time.sleep(POLL_SECONDS)


def _fields(pid: int) -> list[str] | None:
    """Return the fields of a process's `stat` after its name: state, parent, ...; None if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return None


def _alive(process: Process) -> bool:
    fields = _fields(process[0])
    return fields is not None and fields[19] == process[1] and fields[0] != "Z"


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""
