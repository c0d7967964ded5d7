"""The main job as a whole process: cold (features to be computed), warm, and `fedgraft --help`.

    python benchmarks/quickstart.py [--repeats R] [--json FILE]

Cold runs get an empty cache; warm runs share one. Each figure is the median of whole processes' wall times, so it
holds imports, the run and the pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FEDGRAFT = [sys.executable, "-m", "fedgraft"]
GOALS = {"cold": 60.0, "warm": 12.0, "help": 0.5}
"""Seconds on two cores."""


def seconds(arguments: list[str], cache: Path) -> float:
    """Return the wall time of one process."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    started = time.perf_counter()
    subprocess.run([*FEDGRAFT, *arguments], check=True, env=environment, capture_output=True)
    return time.perf_counter() - started


def measure(repeats: int, folder: Path) -> dict[str, list[float]]:
    """Return the wall times by kind of run."""

    def run(name: str, cache: str) -> float:
        return seconds(["run", "quickstart", "--quiet", "--out", str(folder / name)], folder / cache)

    times: dict[str, list[float]] = {name: [] for name in GOALS}
    for number in range(repeats):
        times["cold"].append(run(f"cold-{number}", f"cache-{number}"))
        times["warm"].append(run(f"warm-{number}", f"cache-{number}"))
        times["help"].append(seconds(["--help"], folder))
    return times


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        times = measure(arguments.repeats, Path(folder))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        spread = f"{min(times[name]):.2f} to {max(times[name]):.2f}"
        print(f"{name:5} {value:6.2f} s ({spread}; {arguments.repeats} runs; goal at most {GOALS[name]:g} s)")
    if arguments.json:
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
        arguments.json.write_text(json.dumps({"seconds": times, "median": medians, "machine": machine}, indent=2))


if __name__ == "__main__":
    main()
