"""What a client costs, from 100 to 100,000 of them, and whether the cost model chooses the faster form.

    python benchmarks/scale.py [--clients 100,1000,10000,100000] [--set KEY=VALUE] [--json FILE]

The first table runs whole scenarios in one process: 20 samples a client, 1,280 float16 features, a head of 10
classes, 5 epochs of batch 10, all clients in every round; seconds a round (median after the first), microseconds a
client, peak memory of the process, bytes of features, and what travels. The second is that of `forms.py`, for a head of
1280 x 10. The third times the ways from the process's start to the end of the first round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forms import table
from machine import machine, watched
from memory import last_round

START_GOALS = {"inline": 6.0, "ray": 14.0}
"""Seconds from the start of `fedgraft run` to the end of its first round, with a warm cache."""
SIZES = (5, 10, 20, 50, 100, 200, 500)
"""Samples of a client in the second table."""
FEATURE_DIM, NUM_CLASSES, BATCH_SIZE, EPOCHS = 1280, 10, 10, 5


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process of the benchmark."""
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def growth(counts: Sequence[int], rounds: int, samples: int, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each number of clients."""
    from simulation_work import Work, make_data

    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            work = Work(name, count, rounds, samples, FEATURE_DIM, "float16", overrides=tuple(overrides))
            make_data(work)
            with (folder / "log").open("w") as log:
                command = [sys.executable, __file__, "--child", name]
                status, memory = watched(command, {**environment(folder), **work.environment()}, log)
            if status:
                raise SystemExit(f"{count} clients failed:\n{(folder / 'log').read_text()[-3000:]}")
            facts = json.loads((folder / "facts.json").read_text())
        seconds = statistics.median(facts["seconds"][1:] or facts["seconds"])
        rows.append(
            {
                "clients": count,
                "seconds_per_round": seconds,
                "first_round_seconds": facts["seconds"][0],
                "microseconds_per_client": 1e6 * seconds / count,
                "peak_memory_bytes": memory.peak_bytes,
                "feature_bytes": work.feature_bytes,
                "bytes_down": facts["bytes_down"],
                "bytes_up": facts["bytes_up"],
                "phase_seconds": facts["phases"],
            }
        )
        show_growth(rows[-1])
    return rows


def show_growth(row: dict[str, Any]) -> None:
    """Print one row of the first table."""
    print(
        f"{row['clients']:>8,} clients {row['seconds_per_round']:9.3f} s a round "
        f"{row['microseconds_per_client']:8.0f} us a client   first round {row['first_round_seconds']:7.2f} s   peak "
        f"{row['peak_memory_bytes'] / 2**20:7.0f} MiB (features {row['feature_bytes'] / 2**20:6.0f})   "
        f"{row['bytes_down']:,} bytes down, {row['bytes_up']:,} up",
        flush=True,
    )


def child(folder: Path) -> None:
    """Run the handed work in one process; write what it cost."""
    import simulation_fedgraft
    from simulation_work import Work

    import fedgraft

    _, seconds = simulation_fedgraft.run(Work.received(), "inline")
    run = fedgraft.load(folder / "run-inline")
    last = [row for row in run.metrics if row["group"] == "train"][-1]
    facts = {"seconds": seconds, "bytes_down": last["bytes_down"], "bytes_up": last["bytes_up"]}
    (folder / "facts.json").write_text(json.dumps({**facts, "phases": run.summary["seconds"]}))


def starts(runtimes: Sequence[str], repeats: int, scenario: str = "quickstart") -> dict[str, list[float]]:
    """Return the seconds from the start of `fedgraft run` to the end of the first round, after one run to warm up."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = [sys.executable, "-m", "fedgraft", "run", scenario, "--quiet", "--set", "server.rounds=2"]
        warm_up = [*run, "--out", str(folder / "warm-up")]
        subprocess.run(warm_up, env=environment(folder), check=True, capture_output=True)
        for runtime in runtimes:
            found[runtime] = []
            for number in range(repeats):
                out = folder / f"{runtime}-{number}"
                command = [*run, "--runtime", runtime, "--out", str(out)]
                started = time.perf_counter()
                with subprocess.Popen(command, env=environment(folder), stdout=subprocess.DEVNULL) as process:
                    while not last_round(out / "metrics.jsonl") and process.poll() is None:
                        time.sleep(0.01)
                    found[runtime].append(time.perf_counter() - started)
                if process.returncode:
                    raise SystemExit(f"{' '.join(command)} failed")
            limit = START_GOALS.get(runtime)
            print(
                f"{runtime}: start to the end of the first round {statistics.median(found[runtime]):.2f} s"
                + ("" if limit is None else f", goal at most {limit:g} s"),
                flush=True,
            )
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="100,1000,10000,100000")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--samples", type=int, default=20, help="of each client in the first table")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="samples of a client in the second table")
    parser.add_argument("--runtimes", default="inline,ray", help="of the third table; empty: none")
    parser.add_argument("--repeats", type=int, default=3, help="of the third table")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the first table's scenario")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    counts = [int(word) for word in arguments.clients.split(",") if word]
    sizes = [int(word) for word in arguments.sizes.split(",") if word]
    runtimes = [word for word in arguments.runtimes.split(",") if word]
    report: dict[str, Any] = {"growth": growth(counts, arguments.rounds, arguments.samples, arguments.set)}
    report["forms"] = table(sizes, [FEATURE_DIM], [NUM_CLASSES])
    report["start_seconds"] = starts(runtimes, arguments.repeats) if runtimes else {}
    report["machine"] = machine()
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
