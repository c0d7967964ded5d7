"""Every strategy on real data, even and uneven, with honest clients and with liars: the tables of docs/accuracy.md.

    python benchmarks/accuracy.py --data digits [--seeds 5] [--results FILE]
    python benchmarks/accuracy.py --data fashion-mnist --root FOLDER [--results FILE]

Accuracy after the last round, mean and standard deviation over seeds: on the central test part, or with `--judge
clients` on 30 % of each client's own samples, mean of clients and the worst tenth of them. A seed draws the partition,
the first head, the batches and the liars alike for all strategies. Nothing is tuned: all train with the same optimiser,
and a strategy's own parameters are its defaults, so this says what one gets, not what is best.

Each finished run is one line of `--results` (JSON Lines); a run that stands there is not run again, so that a killed
benchmark goes on where it was.

FOLDER holds `{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz` of Fashion-MNIST; the first 5,000 training images (50
a client) and all 10,000 test images are used, so that hundreds of runs take half an hour rather than half a day.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.api import resolve
from fedgraft.conduct import run_resolved
from fedgraft.errors import FedGraftError
from fedgraft.launch import quieten
from fedgraft.workspace import open_workspace
from strategies.registry import STRATEGIES

ALPHAS = (0.05, 0.5, 100.0)
LIARS = 0.2
"""Share of the clients that lie under attack: they turn their update round and send five times it."""
ROBUST = (
    "median", "trimmed-mean", "krum", "multi-krum", "bulyan",
    "norm-clipping", "centred-clipping", "geometric-median",
)  # fmt: skip
"""Those that promise to bear liars; they are run with liars, beside FedAvg, which promises nothing."""
POOLED = "pooled ridge"
PERSONAL = ("local-only", "fine-tune-after", "ditto", "personal-ridge", "fedper", "fedrep", "fedbabu", "fedrod")
"""Those whose heads stay with their clients, and so are judged by what clients have themselves."""
LAYERED = ("fedper", "fedrep", "fedbabu", "fedrod")
"""Those of them that share an adapter, and so need such a head."""
BESIDE_PERSONAL = ("fedavg", "ridge")
"""One head for all, judged in the same way."""
JUDGED = {"central": ("central",), "clients": ("personal", "validation")}
"""Rows of `metrics.jsonl` that count, the first there is."""
NUM_FASHION_IMAGES = 5_000
"""Of the training part."""
HEADER_BYTES = {"images": 16, "labels": 8}
"""Before the numbers of an idx file."""


@dataclass(frozen=True)
class Dataset:
    """A federation in which strategies are compared.

    Attributes:
        clients: how many.
        overrides: what differs from the quickstart.
    """

    clients: int
    overrides: tuple[str, ...]


def contenders(clients: int, judge: str) -> dict[str, tuple[str, ...]]:
    """Return the overrides of each line of the table."""
    if judge == "clients":
        shared = ("data.validation_fraction=0.3",)
        layered = dict.fromkeys(LAYERED, ("head=adapter",))
        names = (*BESIDE_PERSONAL, *PERSONAL)
        return {name: (f"strategy={name}", *shared, *layered.get(name, ())) for name in names}
    liars = round(LIARS * clients)
    with_liars = {"krum": liars, "multi-krum": liars, "bulyan": min(liars, (clients - 3) // 4)}
    lines = {}
    for name in STRATEGIES:
        if name not in PERSONAL and not name.startswith("flower:"):
            parameters = f", num_malicious: {with_liars[name]}" if name in with_liars else ""
            lines[name] = (f"strategy={{name: {name}{parameters}}}",)
    return {**lines, "init: ridge, then fedavg": ("strategy=fedavg", "init=ridge")}


def fashion_mnist(root: Path, to: Path) -> None:
    """Write the images that are used as one file that `source: arrays` reads."""

    def numbers(part: str, kind: str, dimensions: int) -> NDArray[np.uint8]:
        data = gzip.decompress((root / f"{part}-{kind}-idx{dimensions}-ubyte.gz").read_bytes())
        return np.frombuffer(data, np.uint8, offset=HEADER_BYTES[kind])

    labels = [numbers("train", "labels", 1)[:NUM_FASHION_IMAGES], numbers("t10k", "labels", 1)]
    images = [numbers(part, "images", 3).reshape(-1, 28, 28) for part in ("train", "t10k")]
    np.savez(
        to,
        images=np.concatenate([images[0][:NUM_FASHION_IMAGES], images[1]]),
        labels=np.concatenate(labels).astype(np.int64),
        is_test=np.arange(len(labels[0]) + len(labels[1])) >= len(labels[0]),
    )


def dataset(name: str, root: Path | None, folder: Path) -> Dataset:
    """Return a federation by its name."""
    if name == "digits":
        return Dataset(20, ())
    if root is None:
        raise SystemExit("--data fashion-mnist needs --root, the folder of its four .gz files")
    path = folder / "fashion-mnist.npz"
    fashion_mnist(root, path)
    train = ("train.local_epochs=5", "train.optimizer.learning_rate=0.01")
    return Dataset(100, (f"data.source={{name: arrays, path: {path}}}", *train))


def pooled_ridge(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the accuracy of scikit-learn's ridge on all training samples in one place.

    Its penalty is chosen by leaving out one sample at a time, among the values that `ridge` tries.
    """
    from sklearn.linear_model import RidgeClassifierCV

    scenario = resolve("quickstart", overrides)
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    federation, features = workspace.federation, np.asarray(workspace.features, np.float64)
    train = np.concatenate([federation.train.indices, federation.validation.indices])
    mean_square = np.square(features[train] - features[train].mean(0)).sum() / features.shape[1]
    targets = federation.samples.targets
    model = RidgeClassifierCV(alphas=mean_square * np.logspace(-6, 0, 7)).fit(features[train], targets[train])
    return {"accuracy": float(model.score(features[federation.test], targets[federation.test]))}


def cases(seeds: int, attacked_from: float) -> list[tuple[bool, int, float]]:
    """Return whether clients lie, the seed and alpha of each federation; honest ones first."""
    seeds_and_alphas = list(product(range(1, seeds + 1), ALPHAS))
    honest = [(False, *case) for case in seeds_and_alphas]
    return honest + [(True, seed, alpha) for seed, alpha in seeds_and_alphas if alpha >= attacked_from]


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Run what has no line in the results yet, and add one for each run."""
    data = dataset(arguments.data, arguments.root, folder)
    known = {key_of(row) for row in results(arguments.results)}
    quieten(verbose=False)
    attacked_from = arguments.attacked_from if arguments.judge == "central" else math.inf
    for attacked, seed, alpha in cases(arguments.seeds, attacked_from):
        partition = f"{{name: dirichlet, clients: {data.clients}, alpha: {alpha}}}"
        shared = [*data.overrides, f"seed={seed}", f"data.partition={partition}", f"server.rounds={arguments.rounds}"]
        shared.append(f"evaluation.every={arguments.rounds}")  # only the last counts
        if attacked:
            shared.append(f"attack={{name: sign-flip, scale: 5, fraction: {LIARS}}}")
        lines = contenders(data.clients, arguments.judge)
        if attacked:
            lines = {name: own for name, own in lines.items() if name in ("fedavg", *ROBUST)}
        elif arguments.judge == "central":
            lines = {POOLED: (), **lines}
        for name, own in lines.items():
            row = {"data": arguments.data, "judge": arguments.judge, "strategy": name}
            row |= {"alpha": alpha, "attacked": attacked, "seed": seed}
            if key_of(row) in known:
                continue
            overrides = [*shared, *own]
            row |= pooled_ridge(overrides) if name == POOLED else outcome(overrides, arguments.judge, folder)
            with arguments.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def outcome(overrides: Sequence[str], judge: str, folder: Path) -> dict[str, Any]:
    """Run one scenario and return its accuracy and its seconds, or what it failed of."""
    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            run = run_resolved(resolve("quickstart", overrides), Path(name) / "run", pictures=False, keep_data=True)
            metrics = run.metrics
    except FedGraftError as error:
        return {"error": str(error)}
    last = {row["group"]: row for row in metrics}
    judged = next(last[group] for group in JUDGED[judge] if group in last)
    found = {"round": judged["round"], "seconds": round(time.perf_counter() - started, 2)}
    if judge == "central":
        return {"accuracy": judged["accuracy"], **found}
    return {"accuracy": judged["client_mean"], "worst_tenth": judged["client_worst_decile"], **found}


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells one run from all others."""
    return tuple(row[name] for name in ("data", "judge", "strategy", "alpha", "attacked", "seed"))


def results(path: Path) -> list[dict[str, Any]]:
    """Return the finished runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(rows: Sequence[Mapping[str, Any]], data: str, judge: str) -> str:
    """Return the runs on one data set as a Markdown table, in percent: mean and standard deviation over seeds."""
    found: dict[tuple[str, float, bool], list[Mapping[str, Any]]] = {}
    for row in rows:
        if (row["data"], row["judge"]) == (data, judge):
            found.setdefault((row["strategy"], row["alpha"], row["attacked"]), []).append(row)
    columns = sorted({(attacked, alpha) for _, alpha, attacked in found})
    lines = [
        "| strategy | " + " | ".join(f"{alpha:g}{', liars' if attacked else ''}" for attacked, alpha in columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    there = {strategy for strategy, _, _ in found}
    for name in [name for name in (POOLED, *contenders(1, judge)) if name in there]:
        cells = (cell(found.get((name, alpha, attacked), [])) for attacked, alpha in columns)
        lines.append(f"| {name if ' ' in name else f'`{name}`'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one cell: mean and standard deviation in percent, the same of the worst tenth, how many runs failed."""
    parts = []
    for name in ("accuracy", "worst_tenth"):
        values = [100 * row[name] for row in rows if name in row]
        if values:
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            parts.append(f"{statistics.mean(values):.1f}{spread}")
    num_failed = sum("error" in row for row in rows)
    text = "; ".join(parts)
    return f"{text} ({num_failed} failed)".strip() if num_failed else text


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits")
    parser.add_argument("--judge", choices=tuple(JUDGED), default="central")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--attacked-from", type=float, default=0.05, help="smallest alpha that is run with liars too")
    parser.add_argument("--results", type=Path, default=Path("accuracy.jsonl"))
    parser.add_argument("--table-only", action="store_true", help="run nothing: print the table of the results")
    arguments = parser.parse_args()
    if not arguments.table_only:
        with tempfile.TemporaryDirectory() as folder:
            measure(arguments, Path(folder))
    print(table(results(arguments.results), arguments.data, arguments.judge))


if __name__ == "__main__":
    main()
