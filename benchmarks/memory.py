"""Does memory grow over the rounds? A small scenario for many rounds, every process's resident memory sampled.

    python benchmarks/memory.py [--rounds 2000] [--runtimes inline,ray] [--set KEY=VALUE] [--json FILE]

The scenario has 40 clients, evaluates in every round, writes each client's rows, and saves a checkpoint every 10th.
Printed are the memory after the first round, after warm-up (median of the second tenth of the rounds), at the end
(median of the last tenth), and the slope over the rounds after warm-up: the median of the slopes between samples half
of that span apart (Theil and Sen's estimator, over such pairs), in bytes a round. `--leak` keeps that many bytes a
round on purpose: the benchmark must show them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, name_of, watched
from numpy.typing import NDArray

WARM_UP = 0.1
"""Share of the rounds after which caches and pools have their size."""
MOST_BYTES = 1024
"""A round that counts as no growth: 2 MB over 2,000 rounds."""


@dataclass
class Growth:
    """Samples of the memory of each process, and in which round they were taken."""

    rows: Path
    rounds: list[int] = field(default_factory=list)
    samples: list[dict[int, int]] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)

    def look(self, sample: Mapping[int, tuple[int, int]]) -> None:
        """Take one sample, once the first round is done."""
        number = last_round(self.rows)
        if number and not self.rows.with_name("head.safetensors").exists():
            self.rounds.append(number)
            self.samples.append({process: resident for process, (resident, _) in sample.items()})
            for process in set(sample) - set(self.names):
                self.names[process] = name_of(process)

    def report(self, num_rounds: int) -> dict[str, Any]:
        """Return the figures of all processes together, and of each that lived through warm-up and end."""
        rounds = np.array(self.rounds, dtype=np.float64)
        if len(rounds) < 20 or rounds[-1] < 0.9 * num_rounds:
            raise SystemExit(f"only {len(rounds)} samples up to round {rounds[-1:]}; take more rounds")
        totals = np.array([sum(sample.values()) for sample in self.samples], dtype=np.float64)
        report = {"all processes": figures(rounds, totals, num_rounds)}
        steady = set(self.samples[len(rounds) // 4]) & set(self.samples[-1])
        if len(steady) > 1:
            for process in sorted(steady, key=lambda process: -self.samples[-1][process]):
                seen = np.array([process in sample for sample in self.samples])
                own = np.array([sample.get(process, 0) for sample in self.samples], dtype=np.float64)
                name = f"{self.names[process]} {process}"
                report[name] = figures(rounds[seen], own[seen], num_rounds)
        return report


def figures(rounds: NDArray[np.float64], held: NDArray[np.float64], num_rounds: int) -> dict[str, float]:
    """Return start, after warm-up, end and slope of one series of bytes."""
    first, second = WARM_UP * num_rounds, 2 * WARM_UP * num_rounds
    warm = rounds >= first
    return {
        "start_bytes": float(held[0]),
        "warm_bytes": float(np.median(held[warm & (rounds <= second)])),
        "end_bytes": float(np.median(held[rounds >= 0.9 * num_rounds])),
        "bytes_per_round": slope(rounds[warm], held[warm]),
    }


def slope(rounds: NDArray[np.float64], held: NDArray[np.float64]) -> float:
    """Return the growth in bytes a round, by the median of the slopes between samples that lie half of all apart.

    Steps that a single sample shows, such as a checkpoint's buffers, don't move it; a leak does.
    """
    half = len(rounds) // 2
    later, earlier = slice(half, 2 * half), slice(0, half)
    apart = rounds[later] - rounds[earlier]
    some = apart > 0
    return float(np.median((held[later] - held[earlier])[some] / apart[some]))


def last_round(rows: Path) -> int:
    """Return the last round that a run has written a row of, or 0."""
    try:
        with rows.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        if b'"group": "train"' in line and line.endswith(b"}"):
            return int(json.loads(line)["round"])
    return 0


def scenario(num_rounds: int) -> dict[str, Any]:
    """Return the small scenario."""
    return {
        "name": "memory",
        "backbone": "identity",
        "shards": 2,
        "data": {
            "source": {"name": "synthetic", "num_samples": 2000, "num_features": 64, "num_classes": 5},
            "partition": {"name": "dirichlet", "clients": 40, "alpha": 0.5},
        },
        "train": {"local_epochs": 1, "batch_size": 10, "optimizer": {"learning_rate": 0.01}},
        "server": {"rounds": num_rounds, "checkpoint_every": 10},
    }


def child(path: Path, overrides: Sequence[str], leak: int) -> None:
    """Run the scenario in this process; keep `leak` bytes a round."""
    import fedgraft

    kept: list[bytes] = []

    def listen(event: Any) -> None:
        if leak and event["kind"] == "round":
            kept.append(os.urandom(leak))

    fedgraft.run(path, list(overrides), out=path.parent / "run", on_event=listen)


def measure(runtime: str, num_rounds: int, overrides: Sequence[str], leak: int) -> dict[str, Any]:
    """Run the scenario in a runtime; return its figures.

    Raises:
        SystemExit: the run failed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "scenario.yaml"
        path.write_text(json.dumps(scenario(num_rounds)))
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        words = ["--child", str(path), "--leak", str(leak)]
        words += [word for override in (f"runtime={runtime}", *overrides) for word in ("--set", override)]
        growth, started = Growth(folder / "run" / "metrics.jsonl"), time.perf_counter()
        with (folder / "log").open("w") as log:
            status, _ = watched([sys.executable, __file__, *words], environment, log, growth.look, every_seconds=0.1)
        if status:
            raise SystemExit(f"{runtime} failed:\n{(folder / 'log').read_text()[-3000:]}")
        return {"seconds": time.perf_counter() - started, "processes": growth.report(num_rounds)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--runtimes", default="inline,ray")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the scenario")
    parser.add_argument("--leak", type=int, default=0, help="bytes a round to keep on purpose")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.set, arguments.leak)
        return
    report: dict[str, Any] = {"rounds": arguments.rounds, "leak_bytes": arguments.leak, "runtimes": {}}
    for runtime in arguments.runtimes.split(","):
        found = measure(runtime, arguments.rounds, arguments.set, arguments.leak)
        report["runtimes"][runtime] = found
        print(
            f"{runtime}, {arguments.rounds:,} rounds in {found['seconds']:.0f} s   start      warm       end   a round"
        )
        for name, values in found["processes"].items():
            start, warm, end = (values[key] / 2**20 for key in ("start_bytes", "warm_bytes", "end_bytes"))
            print(f"{name:32} {start:6.1f} {warm:9.1f} {end:9.1f} MiB {values['bytes_per_round']:9.0f} bytes")
        grows = found["processes"]["all processes"]["bytes_per_round"] > MOST_BYTES
        print(f"{runtime} {'GROWS' if grows else 'does not grow'} (limit {MOST_BYTES:,} bytes a round)")
    report["machine"] = machine()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
