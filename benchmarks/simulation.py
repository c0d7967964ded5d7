"""One federated round by several engines, on the same work: features, sizes, order of batches, optimiser.

    python benchmarks/simulation.py [--clients N] [--rounds R] [--engines flower,loop,pfl,inline,ray] [--json FILE]

A head of 1280 x 10, 50 samples a client, 5 local epochs of batch 10, every client in every round.

- `flower`: stock Flower's Ray simulation with one node a client and a plain PyTorch ClientApp;
- `loop`: the bare PyTorch loop over clients, no framework;
- `pfl`: pfl-research's FederatedAveraging, in one process and an environment of its own, which is made below the
  user's cache at the first use;
- `inline`: FedGraft through its whole ServerApp, strategy and ClientApp, in one process;
- `ray`: the same with hosts as Ray actors.

Every engine runs in a process of its own, on one torch thread (`--threads`: of `inline`; `--hosts`: of `ray`). The
engines take turns: each of `--repeats` goes once through all of them, ratios are taken within a turn, and figures are
medians over turns. A round's seconds are the median over the rounds after the first, which loads data and, for
FedGraft, computes what serves all rounds; it is shown beside. Memory is the highest sum of the resident memory of all
processes of an engine, seen at 20 looks a second. The floor is two passes over the cohort's features at the bandwidth
that two threads read them with.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from goals import FEDGRAFT, goals
from machine import Memory, machine, read_seconds, watched
from pfl_environment import NotInstalledError, environment_python

if TYPE_CHECKING:
    from simulation_work import Work

ENGINES = ("flower", "loop", "pfl", "inline", "ray")


@dataclass(frozen=True)
class Turn:
    """What one run of an engine gave."""

    seconds: list[float]
    memory: Memory
    head: dict[str, Any]

    @property
    def round_seconds(self) -> float:
        """Median of the rounds after the first."""
        return statistics.median(self.seconds[1:] or self.seconds)


def child(engine: str) -> None:
    """Run one engine in this process and write what it gave."""
    from simulation_work import Work

    work = Work.received()
    if engine in FEDGRAFT:
        from simulation_fedgraft import run

        head, seconds = run(work, engine)
    else:
        head, seconds = importlib.import_module(f"simulation_{engine}").run(work)
    np.savez(Path(work.folder) / f"{engine}.npz", **head)
    (Path(work.folder) / f"{engine}.json").write_text(json.dumps(seconds))


def turn(engine: str, work: Work, python: str) -> Turn:
    """Run one engine in a process of its own.

    Raises:
        SystemExit: the engine failed.
    """
    folder = Path(work.folder)
    here = str(Path(__file__).parent)
    environment = {
        **os.environ,
        **work.environment(),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    path = folder / f"{engine}.log"
    with path.open("w") as log:
        status, memory = watched([python, __file__, "--child", engine], environment, log)
    if status:
        raise SystemExit(f"{engine} failed:\n{path.read_text()[-3000:]}")
    seconds = json.loads((folder / f"{engine}.json").read_text())
    return Turn(seconds, memory, dict(np.load(folder / f"{engine}.npz")))


def pythons(engines: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the Python of each engine that can run here, and why each of the others can't."""
    found, left_out = dict.fromkeys(engines, sys.executable), {}
    if "pfl" in found:
        try:
            found["pfl"] = str(environment_python())
        except NotInstalledError as error:
            left_out["pfl"] = str(error)
            del found["pfl"]
    return found, left_out


def measure(engines: Sequence[str], work: Work, repeats: int) -> dict[str, Any]:
    """Run the engines in turns; return the figures."""
    from simulation_work import make_data

    found, left_out = pythons(engines)
    for engine, reason in left_out.items():
        print(f"{engine} is left out, it can't be installed here: {reason}", file=sys.stderr)
    make_data(work)
    floor = read_seconds(np.load(Path(work.folder) / "features.npy", mmap_mode="r"))
    turns: dict[str, list[Turn]] = {engine: [] for engine in found}
    for _ in range(repeats):
        for engine, python in found.items():
            turns[engine].append(turn(engine, work, python))
    return report_of(turns, work, floor, left_out)


def report_of(turns: dict[str, list[Turn]], work: Work, floor: float, left_out: dict[str, str]) -> dict[str, Any]:
    """Return the figures of some turns."""
    seconds = {engine: [turn.round_seconds for turn in took] for engine, took in turns.items()}
    report: dict[str, Any] = {
        **{name: value for name, value in asdict(work).items() if name not in ("folder", "overrides")},
        "settings": list(work.overrides),
        "bfloat16": any("bfloat16" in setting for setting in work.overrides),
        "feature_bytes": work.feature_bytes,
        "floor_seconds": floor,
        "seconds_per_round": {engine: statistics.median(took) for engine, took in seconds.items()},
        "first_round_seconds": {e: statistics.median(turn.seconds[0] for turn in took) for e, took in turns.items()},
        "peak_memory_bytes": {e: max(turn.memory.peak_bytes for turn in took) for e, took in turns.items()},
        "peak_own_bytes": {e: max(turn.memory.peak_own_bytes for turn in took) for e, took in turns.items()},
        "ratios": {
            engine: {
                rival: statistics.median(there / here for there, here in zip(seconds[rival], own, strict=True))
                for rival in seconds
                if rival not in FEDGRAFT
            }
            for engine, own in seconds.items()
            if engine in FEDGRAFT
        },
        "left_out": left_out,
        "turns": {engine: [turn.seconds for turn in took] for engine, took in turns.items()},
    }
    if "loop" in turns:
        loop = turns["loop"][0].head
        report["largest_relative_difference"] = {
            engine: max(difference(turn.head, loop) for turn in took) for engine, took in turns.items()
        }
    return {**report, "goals": [goal.facts() for goal in goals(report)], "machine": machine()}


def difference(head: dict[str, Any], loop: dict[str, Any]) -> float:
    """Return the largest difference of two heads over the largest value, the worse of weight and bias."""
    return max(float(np.abs(head[part] - loop[part]).max() / np.abs(loop[part]).max()) for part in loop)


def show(report: dict[str, Any]) -> None:
    """Print the figures."""
    gigabytes, floor = report["feature_bytes"] / 1e9, 1000 * report["floor_seconds"]
    print(
        f"{report['clients']:,} clients of {report['samples']} samples, {report['rounds']} rounds; features of "
        f"{gigabytes:.3g} GB ({report['dtype']}), two passes over them take {floor:.1f} ms"
    )
    print("engine    ms a round   first round   peak memory   difference from the loop")
    for engine, value in report["seconds_per_round"].items():
        gap = report.get("largest_relative_difference", {}).get(engine)
        print(
            f"{engine:8} {1000 * value:11.1f} {1000 * report['first_round_seconds'][engine]:13.1f}"
            f" {report['peak_memory_bytes'][engine] / 2**20:9.0f} MiB   " + ("" if gap is None else f"{gap:.1e}")
        )
    for engine, rivals in report["ratios"].items():
        print("".join(f"{rival} over {engine}: {ratio:.1f} x   " for rival, ratio in rivals.items()).rstrip())
    for goal in goals(report):
        print(goal.line())


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=50, help="of each client")
    parser.add_argument("--features", type=int, default=1280, help="of each sample")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32", help="of the features")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--repeats", type=int, default=3, help="turns through all engines")
    parser.add_argument("--threads", type=int, default=1, help="of the engine inline")
    parser.add_argument("--hosts", type=int, default=os.cpu_count(), help="of the engine ray")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of FedGraft's scenario")
    parser.add_argument("--folder", type=Path, help="for the features; default: a temporary one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    unknown = [engine for engine in arguments.engines.split(",") if engine not in ENGINES]
    if unknown:
        parser.error(f"--engines: {', '.join(unknown)}: there are {', '.join(ENGINES)}")
    return arguments


def main() -> None:
    """Measure, print and write."""
    arguments = arguments_of()
    if arguments.child:
        child(arguments.child)
        return
    from simulation_work import Work

    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        work = Work(
            folder,
            arguments.clients,
            arguments.rounds,
            arguments.samples,
            arguments.features,
            arguments.dtype,
            arguments.threads,
            arguments.hosts,
            tuple(arguments.set),
        )
        report = measure(arguments.engines.split(","), work, arguments.repeats)
    show(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
