"""One federated round by several engines, on the same work: features, sizes, order of batches, optimiser.

    python benchmarks/simulation.py [--clients N] [--rounds R] [--engines flower,loop,inline] [--json FILE]

A head of 1280 x 10, 50 samples a client, 5 local epochs of batch 10, every client in every round.

- `flower`: stock Flower's Ray simulation with one node a client and a plain PyTorch ClientApp;
- `loop`: the bare PyTorch loop over clients, no framework;
- `inline`: FedGraft through its whole ServerApp, strategy and ClientApp, in one process.

Every engine runs in a process of its own, on one torch thread. A round's seconds are the median over the rounds after
the first (which loads data and, for FedGraft, computes what serves all rounds; it is shown beside). The floor is two
passes over the cohort's features at the bandwidth that this machine reads them with, two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = ("flower", "loop", "inline")


def make_data(folder: Path, num_clients: int, num_samples: int, feature_dim: int, num_classes: int) -> None:
    """Write features of norm about 16 a sample, so that training is stable, and labels that they explain partly."""
    draw = np.random.default_rng(1)
    centres = draw.standard_normal((num_classes, feature_dim)).astype(np.float32) * 0.1
    labels = draw.integers(0, num_classes, num_clients * num_samples)
    features = np.lib.format.open_memmap(
        folder / "features.npy", mode="w+", dtype=np.float32, shape=(len(labels), feature_dim)
    )
    for first in range(0, len(labels), 8192):
        part = labels[first : first + 8192]
        noise = draw.standard_normal((len(part), feature_dim), dtype=np.float32) * np.float32(0.45)
        features[first : first + 8192] = centres[part] + noise
    features.flush()
    np.save(folder / "labels.npy", labels)


def run_loop(num_clients: int, num_rounds: int) -> tuple[dict[str, Any], list[float]]:
    """The bare loop."""
    import simulation_work as work
    import torch

    torch.set_num_threads(1)
    samples = [work.client_samples(number) for number in range(num_clients)]
    names = [work.client_name(number, num_clients) for number in range(num_clients)]
    head, seconds = work.zero_head(), []
    for number in range(1, num_rounds + 1):
        started = time.perf_counter()
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in head.items()}
        for (features, labels), client in zip(samples, names, strict=True):
            for name, value in work.train_client(head, features, labels, client, number).items():
                total[name] += value
        head = {name: (value / num_clients).float() for name, value in total.items()}
        seconds.append(time.perf_counter() - started)
    return {name: value.numpy() for name, value in head.items()}, seconds


def run_flower(num_clients: int, num_rounds: int) -> tuple[dict[str, Any], list[float]]:
    """Stock Flower."""
    import simulation_work as work
    from flwr.simulation import run_simulation

    found: list[Any] = []
    app = work.stock_server(num_rounds, lambda head, seconds: found.extend((head, seconds)))
    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"logging_level": "ERROR"}}
    run_simulation(app, work.client_app, num_supernodes=num_clients, backend_config=backend)
    return found[0], found[1]


def run_inline(num_clients: int, num_rounds: int) -> tuple[dict[str, Any], list[float]]:
    """FedGraft, the whole of it."""
    import simulation_work as work

    import fedgraft

    folder = Path(os.environ[work.FOLDER])
    labels = np.load(folder / "labels.npy")
    client = np.repeat([work.client_name(number, num_clients) for number in range(num_clients)], work.NUM_SAMPLES)
    np.savez(folder / "arrays.npz", features=np.load(folder / "features.npy"), labels=labels, client=client)
    scenario = {
        "name": "benchmark",
        "seed": work.SEED,
        "backbone": "identity",
        "data": {
            "source": {"name": "arrays", "path": str(folder / "arrays.npz")},
            "partition": "natural",
            "validation_fraction": 0.0,
            "test_fraction": 0.0,
        },
        "train": {
            "local_epochs": work.EPOCHS,
            "batch_size": work.BATCH_SIZE,
            "optimizer": {"learning_rate": work.LEARNING_RATE},
        },
        "server": {"rounds": num_rounds, "checkpoint_every": 1000},
        "evaluation": {"every": 1000, "central": False, "per_client": False},
    }
    (folder / "scenario.yaml").write_text(json.dumps(scenario))  # JSON is YAML
    run = fedgraft.run(folder / "scenario.yaml", out=folder / "run")
    return run.head, [row["seconds"] for row in run.metrics if row["group"] == "train"]


def child(engine: str, num_clients: int, num_rounds: int, folder: Path) -> None:
    """Run one engine in this process and write what it gave."""
    head, seconds = globals()[f"run_{engine}"](num_clients, num_rounds)
    np.savez(folder / f"{engine}.npz", **head)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    below = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    facts = {"seconds": seconds, "peak_memory_bytes": 1024 * max(own, below)}
    (folder / f"{engine}.json").write_text(json.dumps(facts))


def floor_seconds(folder: Path, passes: int = 2, repeats: int = 5) -> float:
    """Return the seconds of two passes over the features, read by two threads; the median."""
    features = np.load(folder / "features.npy").reshape(-1)
    halves = np.array_split(features, 2)

    def once() -> float:
        threads = [threading.Thread(target=np.sum, args=(half,)) for half in halves]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    return passes * statistics.median(once() for _ in range(repeats))


def measure(engines: list[str], num_clients: int, num_rounds: int) -> dict[str, Any]:
    """Run the engines one after another; return the figures."""
    import simulation_work as work

    report: dict[str, Any] = {"clients": num_clients, "rounds": num_rounds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, num_clients, work.NUM_SAMPLES, work.FEATURE_DIM, work.NUM_CLASSES)
        report["floor_seconds"] = floor_seconds(folder)
        here = str(Path(__file__).parent)
        environment = {
            **os.environ,
            work.FOLDER: name,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "FLWR_TELEMETRY_ENABLED": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        facts, heads = {}, {}
        for engine in engines:
            words = ["--child", engine, "--clients", str(num_clients), "--rounds", str(num_rounds), "--folder", name]
            log = (folder / f"{engine}.log").open("w")
            done = subprocess.run([sys.executable, __file__, *words], env=environment, stdout=log, stderr=log)
            log.close()
            if done.returncode:
                raise SystemExit(f"{engine} failed:\n{(folder / f'{engine}.log').read_text()[-3000:]}")
            facts[engine] = json.loads((folder / f"{engine}.json").read_text())
            heads[engine] = dict(np.load(folder / f"{engine}.npz"))
    report["first_round_seconds"] = {engine: fact["seconds"][0] for engine, fact in facts.items()}
    report["seconds_per_round"] = {
        engine: statistics.median(fact["seconds"][1:] or fact["seconds"]) for engine, fact in facts.items()
    }
    report["peak_memory_bytes"] = {engine: fact["peak_memory_bytes"] for engine, fact in facts.items()}
    if "loop" in heads:
        loop = heads["loop"]
        report["largest_relative_difference"] = {
            engine: max(float(np.abs(head[part] - loop[part]).max() / np.abs(loop[part]).max()) for part in loop)
            for engine, head in heads.items()
        }
    report["machine"] = {"processor": platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    return report


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", default="flower,loop,inline", help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.clients, arguments.rounds, arguments.folder)
        return
    report = measure(arguments.engines.split(","), arguments.clients, arguments.rounds)
    print(f"{arguments.clients:,} clients, {arguments.rounds} rounds; two passes over the features take "
          f"{1000 * report['floor_seconds']:.1f} ms")  # fmt: skip
    print("engine    ms a round   first round   peak memory   difference from the loop")
    for engine, value in report["seconds_per_round"].items():
        difference = report.get("largest_relative_difference", {}).get(engine)
        print(
            f"{engine:8} {1000 * value:11.1f} {1000 * report['first_round_seconds'][engine]:13.1f}"
            f" {report['peak_memory_bytes'][engine] / 2**20:9.0f} MiB   "
            + ("" if difference is None else f"{difference:.1e}")
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
