"""The engines `inline` and `ray` of `simulation.py`: FedGraft, its whole server app, strategy and client app."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from simulation_work import BATCH_SIZE, EPOCHS, LEARNING_RATE, SEED, Work, client_name

import fedgraft


def write_source(work: Work) -> Path:
    """Write the samples as an `arrays` source maps them; return the path of the folder."""
    source, folder = Path(work.folder), Path(work.folder) / "arrays"
    if not folder.exists():
        folder.mkdir()
        names = [client_name(number, work.clients) for number in range(work.clients)]
        np.save(folder / "client.npy", np.repeat(names, work.samples))
        for name in ("features.npy", "labels.npy"):
            (folder / name).hardlink_to(source / name)
    return folder


def scenario(work: Work, runtime: dict[str, Any]) -> dict[str, Any]:
    """Return the scenario of the work."""
    return {
        "name": "benchmark",
        "seed": SEED,
        "shards": runtime.get("hosts", 1),
        "runtime": runtime,
        "backbone": "identity",
        "data": {
            "source": {"name": "arrays", "path": str(write_source(work))},
            "partition": "natural",
            "validation_fraction": 0.0,
            "test_fraction": 0.0,
        },
        "train": {
            "local_epochs": EPOCHS,
            "batch_size": BATCH_SIZE,
            "optimizer": {"learning_rate": LEARNING_RATE},
        },
        "server": {"rounds": work.rounds, "checkpoint_every": 1000},
        "evaluation": {"every": 1000, "central": False, "per_client": False},
    }


def run(work: Work, name: str) -> tuple[dict[str, Any], list[float]]:
    """Return the head and each round's seconds, in the runtime of a name."""
    one_process = name == "inline"
    runtime = {"name": name, "threads": work.threads} if one_process else {"name": name, "hosts": work.hosts}
    folder = Path(work.folder)
    shutil.rmtree(folder / f"run-{name}", ignore_errors=True)
    (folder / f"{name}.yaml").write_text(json.dumps(scenario(work, runtime)))  # JSON is YAML
    run = fedgraft.run(folder / f"{name}.yaml", list(work.overrides), out=folder / f"run-{name}")
    return run.head, [row["seconds"] for row in run.metrics if row["group"] == "train"]
