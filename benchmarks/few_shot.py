"""Few shots of many classes: Omniglot by drawer, the table of docs/few-shot.md.

    python benchmarks/few_shot.py --root FOLDER [--seeds 3] [--shots 1,5,15] [--alphabets 5] [--json FILE]

FOLDER holds `omniglot_28.npz` (`images`, `(1623, 20, 28, 28)` uint8; `alphabet`, `is_background`, `(1623,)`). Some
alphabets are drawn from the 20 of Lake, Salakhutdinov and Tenenbaum's evaluation part (Science 350, 2015); each has
some 33 characters, drawn by 20 people. A client is one drawer of one alphabet, who has one drawing of each of its
characters: with `k` shots and 5 alphabets there are `5 k` clients. The drawings of 5 further drawers of each alphabet
are the test part. A seed draws the alphabets, and who is who.

The bundled backbone sees the drawings at 64 px. Accuracy is among the characters of all the alphabets; mean and
standard deviation over seeds. Nothing is tuned but the learning rate of FedAvg, of which two are run and the better is
shown, which favours it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

NUM_TEST = 5
"""Drawers of each alphabet whose drawings are the test part."""
RATES = (0.01, 0.1)
"""Learning rates of FedAvg."""
LINES: dict[str, tuple[str, ...]] = {
    "prototypes: `ncm`, cosine head": ("strategy=ncm", "head=cosine"),
    "`ncm`, linear head": ("strategy=ncm",),
    "`lda`": ("strategy=lda",),
    "`ridge`": ("strategy=ridge",),
    "`fedavg`": ("strategy=fedavg",),
    "`init: ridge`, then `fedavg`": ("strategy=fedavg", "init=ridge"),
}
"""What is run; those that train do so once for each of the rates."""


def drawings(root: Path, num_alphabets: int, shots: int, seed: int, to: Path) -> tuple[int, int]:
    """Write the drawings of one federation for `source: arrays`; return the numbers of its clients and classes."""
    draw = np.random.default_rng(seed)
    with np.load(root / "omniglot_28.npz") as file:
        evaluation = np.unique(file["alphabet"][~file["is_background"].astype(bool)])
        chosen = np.flatnonzero(np.isin(file["alphabet"], draw.permutation(evaluation)[:num_alphabets]))
        images, alphabets = file["images"][chosen], file["alphabet"][chosen]
    drawers = {alphabet: draw.permutation(20) for alphabet in np.unique(alphabets).tolist()}
    place = np.stack([np.argsort(drawers[alphabet]) for alphabet in alphabets.tolist()])  # of each drawer, in the draw
    character, drawer = np.nonzero(place < NUM_TEST + shots)
    client = [f"{alphabets[one]:02d}-{other:02d}" for one, other in zip(character, drawer, strict=True)]
    is_test = place[character, drawer] < NUM_TEST
    np.savez(to, images=images[character, drawer], labels=character, client=np.array(client), is_test=is_test)
    return len({name for name, test in zip(client, is_test, strict=True) if not test}), len(chosen)


def measure(root: Path, num_alphabets: int, seeds: int, shots: Sequence[int]) -> list[dict[str, Any]]:
    """Run everything; return a row a run."""
    from fedgraft.api import resolve
    from fedgraft.conduct import run_resolved
    from fedgraft.errors import FedGraftError
    from fedgraft.launch import quieten

    quieten(verbose=False)
    rows = []
    for number, seed in ((number, seed) for number in shots for seed in range(1, seeds + 1)):
        with tempfile.TemporaryDirectory() as folder:
            clients, classes = drawings(root, num_alphabets, number, seed, Path(folder) / "drawings.npz")
            shared = [f"data.source={{name: arrays, path: {folder}/drawings.npz}}", "data.partition=natural"]
            shared += ["data.validation_fraction=0", f"seed={seed}", "evaluation={per_client: false, every: 20}"]
            for line, own in LINES.items():
                rates = RATES if "strategy=fedavg" in own else (None,)
                for rate in rates:
                    overrides = [*shared, *own] + ([] if rate is None else [f"train.optimizer.learning_rate={rate}"])
                    started = time.perf_counter()
                    out = Path(folder) / f"run-{len(rows)}"
                    row = {
                        "shots": number,
                        "seed": seed,
                        "line": line,
                        "rate": rate,
                        "clients": clients,
                        "classes": classes,
                    }
                    try:
                        run = run_resolved(resolve("quickstart", overrides), out, pictures=False, keep_data=True)
                        row |= {"accuracy": run.summary["central"]["accuracy"], "bytes_up": run.summary["bytes_up"]}
                    except FedGraftError as error:  # no covariance within a class of one sample
                        row |= {"error": str(error)}
                    rows.append(row | {"seconds": round(time.perf_counter() - started, 2)})
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]], shots: Sequence[int]) -> str:
    """Return the runs as a Markdown table in percent; of several rates the one that is best in the mean."""
    lines = ["| head | " + " | ".join(f"{number} shots" if number > 1 else "1 shot" for number in shots) + " |"]
    lines.append("| --- |" + " --- |" * len(shots))
    for line in LINES:
        cells = []
        for number in shots:
            found: dict[float | None, list[float]] = {}
            for row in rows:
                if (row["line"], row["shots"]) == (line, number) and "accuracy" in row:
                    found.setdefault(row["rate"], []).append(100 * row["accuracy"])
            if not found:
                cells.append("")
                continue
            best = max(found, key=lambda rate: statistics.mean(found[rate]))
            spread = f" ± {statistics.stdev(found[best]):.1f}" if len(found[best]) > 1 else ""
            rate_text = "" if best is None else f" (rate {best:g})"
            cells.append(f"{statistics.mean(found[best]):.1f}{spread}{rate_text}")
        lines.append(f"| {line} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def numbers(text: str) -> list[int]:
    """Return the numbers of a list with commas."""
    return [int(word) for word in text.split(",") if word]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shots", type=numbers, default=[1, 5, 15])
    parser.add_argument("--alphabets", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments.root, arguments.alphabets, arguments.seeds, arguments.shots)
    print(table(rows, arguments.shots))
    if arguments.json:
        arguments.json.write_text(json.dumps({"runs": rows, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
