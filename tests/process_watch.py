"""Sees which processes a run starts, and whether they have ended."""

from __future__ import annotations

import time
from pathlib import Path


class Watch:
    """Every process seen below one process, as (id, start time), so that a reused id is not taken for it.

    What was there before, such as multiprocessing's resource tracker of an earlier test, is not watched.
    """

    def __init__(self, root: int) -> None:
        self.root = root
        self.before: frozenset[tuple[int, str]] = frozenset()
        self.seen: dict[tuple[int, str], str] = {}
        self.look()
        self.before = frozenset(self.seen)
        self.seen.clear()

    def look(self) -> None:
        parents: dict[int, list[tuple[int, str, str]]] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                left, _, right = entry.read_text().rpartition(")")
            except OSError:
                continue
            pid, _, name = left.partition(" (")
            fields = right.split()
            parents.setdefault(int(fields[1]), []).append((int(pid), fields[19], name))
        waiting = [self.root]
        while waiting:
            for pid, started, name in parents.get(waiting.pop(), []):
                if (pid, started) not in self.before:
                    self.seen[pid, started] = name
                waiting.append(pid)

    def alive(self) -> dict[int, str]:
        found = {}
        for (pid, started), name in self.seen.items():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[19] == started:
                found[pid] = f"{name} ({fields[0]})"
        return found

    def assert_all_ended(self, within_seconds: float = 0.0) -> None:
        assert any("raylet" in name for name in self.seen.values()), self.seen
        deadline = time.monotonic() + within_seconds
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self.alive() == {}
