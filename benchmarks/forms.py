"""Both forms of training against each other, and against what the cost model says of them.

    python benchmarks/forms.py [--samples 5,20,50,...] [--features 1280,256] [--outputs 10,2,100] [--json FILE]

Trains clients of one size at a time in the dual and in the primal form by the engine alone, on one thread, in turns;
seconds are the medians of its CPU time in the rounds after the first, which computes Gram matrices. The last column is
what the choice of `clients/engine/choice.py` costs over the faster form: 1.00 is the faster one, and at most 1.25 is
its goal. Its weights were fitted to the table that this prints.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

GOAL = 1.25
BATCHES = ((10, 5), (32, 1))
"""Sizes of batches, and epochs."""

LARGEST_WORK = 1000 * 100
"""Samples times outputs beyond which a shape is left out, for it takes minutes."""

ROWS = 2e7
"""Numbers in the features of all clients of a shape, about."""


def measure(samples: int, features: int, outputs: int, batch: int, epochs: int, turns: int = 5) -> dict[str, Any]:
    """Return the microseconds a client of one shape in both forms, measured and predicted."""
    from clients.engine.choice import choose, cost
    from clients.settings import TrainSettings
    from fedgraft.models.head_settings import LinearHead

    clients = int(min(256, max(24, ROWS / (samples * features))))
    train = TrainSettings(local_epochs=epochs, batch_size=batch)
    rounds = {form: _rounds(samples, features, outputs, clients, train, form) for form in ("dual", "primal")}
    for form in rounds.values():
        next(form)
    took = {form: statistics.median(next(rounds[form]) for _ in range(turns)) for form in rounds}
    predicted = {form: cost(form, samples, features, outputs, train) / 1000 for form in ("dual", "primal")}
    chosen = choose(samples, features, outputs, LinearHead(), train)
    return {
        **{"samples": samples, "features": features, "outputs": outputs, "batch": batch, "epochs": epochs},
        **took,
        "measured_ratio": took["primal"] / took["dual"],
        "predicted_ratio": predicted["primal"] / predicted["dual"],
        "regret": took[chosen] / min(took.values()),
    }


def _rounds(samples: int, features: int, outputs: int, clients: int, train: Any, form: str) -> Iterator[float]:
    """Yield the microseconds of CPU time a client of each round."""
    import torch

    from clients.engine.cohort import Engine
    from clients.training import LocalTask
    from fedgraft.data.ragged import ragged
    from fedgraft.evaluation import Objective
    from fedgraft.models.head_settings import LinearHead
    from fedgraft.models.loss_settings import SoftmaxLoss
    from fedgraft.randomness import name_keys

    draw, count = np.random.default_rng(0), clients * samples
    rows = draw.standard_normal((count, features), dtype=np.float32) / np.float32(features**0.5)
    labels, names = draw.integers(0, outputs, count), [f"client-{number}" for number in range(clients)]
    objective = Objective(LinearHead(), SoftmaxLoss(), "classes", outputs)
    task = LocalTask(objective, train.model_copy(update={"form": form}), 1, 1, 5)
    parts, everyone = ragged(np.arange(count), [samples] * clients), np.arange(clients)
    engine = Engine(rows, labels, parts, everyone, name_keys(names), names, task)
    head = {"weight": torch.zeros(outputs, features), "bias": torch.zeros(outputs)}
    while True:
        started = time.thread_time()
        for trained in engine.run(task, head, everyone):
            trained.weighted_sum(trained.num_samples.astype(np.float64))
        yield 1e6 * (time.thread_time() - started) / clients


def table(samples: Sequence[int], features: Sequence[int], outputs: Sequence[int]) -> list[dict[str, Any]]:
    """Measure all shapes; print a line each."""
    rows = []
    print("samples features outputs batch epochs   dual, us   primal, us   ratio   predicted   choice over the faster")
    for shape in itertools.product(samples, features, outputs, BATCHES):
        size, width, heads, (batch, epochs) = shape
        if size * heads >= LARGEST_WORK:
            continue
        row = measure(size, width, heads, batch, epochs)
        rows.append(row)
        print(
            f"{size:7} {width:8} {heads:7} {batch:5} {epochs:6} {row['dual']:10.0f} {row['primal']:12.0f} "
            f"{row['measured_ratio']:7.2f} {row['predicted_ratio']:11.2f} {row['regret']:24.2f}",
            flush=True,
        )
    missed = sum(row["regret"] > GOAL for row in rows)
    print(f"choice within {GOAL} of the faster form: {len(rows) - missed} of {len(rows)} shapes")
    return rows


def numbers(text: str) -> list[int]:
    """Return the numbers of a list with commas."""
    return [int(word) for word in text.split(",") if word]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=numbers, default=[5, 20, 50, 100, 200, 500, 1000, 2000])
    parser.add_argument("--features", type=numbers, default=[1280, 256])
    parser.add_argument("--outputs", type=numbers, default=[10, 2, 100])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = table(arguments.samples, arguments.features, arguments.outputs)
    if arguments.json:
        arguments.json.write_text(json.dumps({"shapes": rows, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
