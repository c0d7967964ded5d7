"""What the benchmarks measure of the machine: memory of a tree of processes, bandwidth, what the machine is."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SAMPLE_SECONDS = 0.05
"""Between two looks at the memory of the known processes."""
LIST_SECONDS = 0.5
"""Between two looks for new processes, which cost more."""


@dataclass
class Memory:
    """What a tree of processes held over time.

    Attributes:
        peak_bytes: highest sum of the processes' resident memory. Pages that several processes share, such as a
            mapped file's, count in each of them, so with several processes this is an upper limit.
        peak_own_bytes: the same without mapped files and shared memory, which the system can take back, or which
            count once however many processes look at them.
    """

    peak_bytes: int = 0
    peak_own_bytes: int = 0

    def see(self, sample: Mapping[int, tuple[int, int]]) -> None:
        """Take one sample, `(resident, shared)` bytes by process."""
        self.peak_bytes = max(self.peak_bytes, sum(resident for resident, _ in sample.values()))
        self.peak_own_bytes = max(self.peak_own_bytes, sum(resident - shared for resident, shared in sample.values()))


@dataclass
class ProcessTree:
    """A process and all that it started, also those whose parent has ended since they were first seen."""

    root: int
    known: set[int] = field(default_factory=set)
    _listed: float = 0.0

    def sample(self) -> dict[int, tuple[int, int]]:
        """Return resident and shared bytes of each process that is alive (Linux; elsewhere nothing)."""
        if time.monotonic() - self._listed > LIST_SECONDS:
            self._listed = time.monotonic()
            self.known |= {self.root} | _below(self.known | {self.root})
        found = {}
        for process in list(self.known):
            try:
                words = Path(f"/proc/{process}/statm").read_text().split()
            except OSError:
                self.known.discard(process)
                continue
            found[process] = int(words[1]) * PAGE_BYTES, int(words[2]) * PAGE_BYTES
        return found


def _below(roots: set[int]) -> set[int]:
    """Return all processes that descend from some."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children.setdefault(parent, []).append(int(entry.parent.name))
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        new = [child for child in children.get(waiting.pop(), []) if child not in found]
        found.update(new)
        waiting += new
    return found


def watched(
    command: list[str],
    environment: Mapping[str, str],
    log: IO[str],
    look: Callable[[dict[int, tuple[int, int]]], None] | None = None,
    every_seconds: float = SAMPLE_SECONDS,
) -> tuple[int, Memory]:
    """Run a command; return its exit status and the memory of it and all that it started.

    Args:
        command: what to run.
        environment: its environment.
        log: where its output goes.
        look: is given each sample.
        every_seconds: between two samples.
    """
    memory = Memory()
    with subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log) as process:
        tree = ProcessTree(process.pid)
        while process.poll() is None:
            sample = tree.sample()
            memory.see(sample)
            if look is not None:
                look(sample)
            time.sleep(every_seconds)
    return process.returncode, memory


def name_of(process: int) -> str:
    """Return what a process calls itself, in few words."""
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    first = words[0].decode(errors="replace")
    if first.startswith("ray::"):
        return first.split(".")[0]
    if "python" not in Path(first).name:
        return Path(first).name
    rest = [word.decode(errors="replace") for word in words[1:] if word and not word.startswith(b"-")]
    return f"python {Path(rest[0]).name}" if rest else "python"


def read_seconds(values: NDArray[Any], passes: int = 2, repeats: int = 5, num_threads: int = 2) -> float:
    """Return the seconds of some passes over an array's bytes, read by two threads; the median, after one pass more."""
    numbers = values.reshape(-1).view(np.uint8)
    numbers = numbers[: len(numbers) // 8 * 8].view(np.uint64)
    parts = np.array_split(numbers, num_threads)

    def once() -> float:
        threads = [threading.Thread(target=np.bitwise_or.reduce, args=(part,)) for part in parts]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    once()
    return passes * statistics.median(once() for _ in range(repeats))


def machine() -> dict[str, Any]:
    """Return what measurements may depend on."""
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "load": os.getloadavg()[0],
    }
