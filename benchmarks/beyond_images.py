"""Tables, texts and sounds by their owners: the table of docs/tables.md.

    python benchmarks/beyond_images.py [--tasks breast-cancer,wine,diabetes] [--seeds 5] [--set KEY=VALUE] [--json FILE]

A task is a shipped scenario, or the path of one, with its own backbone, owners, alignment and learning rate; nothing is
tuned. Each is run with the same heads, from the data in one place down to each client alone. All are judged on 40 % of
every client's own samples, by the head that the client would use: there the local head is at home. A task whose data
are not on this machine is left out, and named; a head that does not serve a task leaves its field empty.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import machine

LINES: dict[str, tuple[str, ...]] = {
    "all data in one place (`centralised`)": ("strategy=centralised", "init=null"),
    "each client alone (`local-only`)": ("strategy=local-only", "init=null"),
    "no training (`zero-shot`)": ("strategy=zero-shot", "init=null"),
    "`ncm`": ("strategy=ncm", "init=null"),
    "`ridge`": ("strategy=ridge", "init=null"),
    "`fedavg`": ("strategy=fedavg", "init=null"),
    "`init: ridge`, then `fedavg`": ("strategy=fedavg", "init=ridge"),
}
SHARED = ("data.test_fraction=0", "data.validation_fraction=0.4", "compare=null", "stages=null")
SCORES = {"classes": "accuracy", "labels": "macro_f1", "real": "root_mean_squared_error"}


def measure(tasks: Sequence[str], seeds: int, sets: Sequence[str]) -> list[dict[str, Any]]:
    """Run everything; return a row a run."""
    from fedgraft.api import resolve
    from fedgraft.conduct import run_resolved
    from fedgraft.errors import DataError, FedGraftError
    from fedgraft.launch import quieten

    quieten(verbose=False)
    rows: list[dict[str, Any]] = []
    for task in tasks:
        for line, own in LINES.items():
            for seed in range(1, seeds + 1):
                started = time.perf_counter()
                row: dict[str, Any] = {"task": task, "seed": seed, "line": line}
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        scenario = resolve(task, [*SHARED, *own, *sets, f"seed={seed}"])
                        run = run_resolved(scenario, Path(folder) / "run", pictures=False, keep_data=True)
                    except FedGraftError as error:
                        print(f"{task}, {line}: {error}", file=sys.stderr, flush=True)
                        rows.append(row | {"error": str(error), "no_data": isinstance(error, DataError)})
                        break
                    summary = run.summary
                part = "personal" if summary["answer"] == "own" else "validation"
                metric = SCORES[summary["task"]]
                row |= {"metric": metric, "score": summary[part][metric], "bytes_up": summary["bytes_up"]}
                rows.append(row | {"clients": summary["num_clients"], "seconds": time.perf_counter() - started})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the runs as a Markdown table: mean and standard deviation over seeds, shares in percent."""
    tasks = list(dict.fromkeys(row["task"] for row in rows if "score" in row))
    names = {row["task"]: f"{row['task']}, {row['metric'].replace('_', ' ')}" for row in rows if "score" in row}
    lines = ["| head | " + " | ".join(names[task] for task in tasks) + " |", "| --- |" + " --- |" * len(tasks)]
    for line in LINES:
        cells = []
        for task in tasks:
            found = [row for row in rows if (row["line"], row["task"]) == (line, task) and "score" in row]
            factor = 1 if any(row["metric"] == SCORES["real"] for row in found) else 100
            scores = [factor * row["score"] for row in found]
            spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            cells.append(f"{statistics.mean(scores):.1f}{spread}" if scores else "")
        lines.append(f"| {line} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=["breast-cancer", "wine", "diabetes"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments.tasks, arguments.seeds, arguments.sets)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"runs": rows, "machine": machine()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
