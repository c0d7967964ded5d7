"""Alignments on digits of four domains: the table of docs/domain-shift.md.

    python benchmarks/shift.py [--seeds 3] [--results shift.jsonl] [--page docs/domain-shift.md]

scikit-learn's digits at 12 clients, three of each domain: as they are, inverted, of low contrast, and noisy; the
central test part has all four. Ridge heads on raw pixels and on the bundled EfficientNet-Lite0 at 48 px, cut at
`blocks.4`. With even clients, and with uneven ones (Dirichlet 0.3), where what differs between clients is also their
labels. A seed draws the test part, the clients and the noise alike for all alignments. The reference of one line is the
first client of the domain "plain", by its name.

A second table: BBSE, which tells uneven clients' label priors by the answers of the head, on digits without domains.

Each finished run is one line of `--results` (JSON Lines); a run that stands there is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgraft.api import resolve
from fedgraft.conduct import run_resolved
from fedgraft.launch import quieten

DOMAINS = (
    "[{name: plain}, {name: inverted, invert: true}, {name: faded, contrast: 0.3, brightness: 0.2}, "
    "{name: noisy, noise: 0.3}]"
)
PARTITIONS = {
    "even": "{name: iid, clients: 12}",
    "uneven": "{name: dirichlet, clients: 12, alpha: 0.3}",
}
BACKBONES = {
    "pixels": "pixels",
    "EfficientNet": "{name: 'bundled:efficientnet_lite0', cut: blocks.4, input_size: 48}",
}
ALIGNMENTS = {
    "none": "null",
    "`standardise`": "standardise",
    "`coral`, diagonal": "{name: coral, covariance: diagonal}",
    "`coral`, full": "coral",
    "`coral`, full, onto one plain client": "{name: coral, reference: [client-0000]}",
    "`adabn`": "adabn",
    "`adabn`, 96 images of prior": "{name: adabn, prior_samples: 96}",
}
WITHOUT_NORM = ("pixels",)
"""Backbones for which AdaBN is refused."""


def cases(seeds: int) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield what tells a run from all others, and its overrides."""
    for seed in range(1, seeds + 1):
        shared = [f"seed={seed}", "strategy=ridge", "data.source=digits"]
        for partition, clients in PARTITIONS.items():
            data = [f"data.partition={clients}", f"data.domains={DOMAINS}"]
            for backbone, base in BACKBONES.items():
                for name, align in ALIGNMENTS.items():
                    if backbone not in WITHOUT_NORM or "adabn" not in name:
                        key = {"seed": seed, "partition": partition, "backbone": backbone, "align": name}
                        yield key, [*shared, *data, f"backbone={base}", f"align={align}"]
        for backbone, base in BACKBONES.items():
            shift = ["evaluation.label_shift={penalty: 0.01}", "strategy=fedavg", "init=ridge", "server.rounds=5"]
            key = {"seed": seed, "partition": "uneven", "backbone": backbone, "align": "BBSE"}
            own = [f"data.partition={PARTITIONS['uneven']}", "train.local_epochs=1", f"backbone={base}"]
            yield key, [*shared, *shift, *own]


def outcome(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a scenario; return its scores."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run = run_resolved(resolve("quickstart", overrides), Path(name) / "run", pictures=False, keep_data=True)
        summary = run.summary
    found = {"central": summary["central"]["accuracy"], "validation": summary["validation"]["accuracy"]}
    groups = summary.get("central_groups", {})
    found |= {f"group {name}": scores["accuracy"] for name, scores in groups.items()}
    return found | ({"label_shift": summary["label_shift"]} if "label_shift" in summary else {})


def measure(seeds: int, file: Path, folder: Path) -> None:
    """Run what has no line in the results yet."""
    known = results(file)
    for key, overrides in cases(seeds):
        if not any(all(row[part] == key[part] for part in key) for row in known):
            row = key | outcome(overrides, folder)
            with file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def results(file: Path) -> list[dict[str, Any]]:
    """Return the finished runs."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the accuracy on the central test part as a Markdown table: medians over seeds and their range."""
    columns = [(partition, backbone) for partition in PARTITIONS for backbone in BACKBONES]
    lines = [f"| `align` | {' | '.join(f'{partition}: {backbone}' for partition, backbone in columns)} |"]
    lines.append(f"| --- |{' ---: |' * len(columns)}")
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in whole(rows):
        found.setdefault((row["align"], row["partition"], row["backbone"]), []).append(100 * row["central"])
    for name in ALIGNMENTS:
        lines.append(f"| {name} | {' | '.join(cell(found.get((name, *column), [])) for column in columns)} |")
    return "\n".join(lines)


def whole(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of seeds that all alignments of a column have been run with."""
    aligned = [row for row in rows if row["align"] in ALIGNMENTS]
    found: dict[tuple[str, str, int], int] = {}
    for row in aligned:
        column = row["partition"], row["backbone"], row["seed"]
        found[column] = found.get(column, 0) + 1
    most = {
        backbone: sum("adabn" not in name or backbone not in WITHOUT_NORM for name in ALIGNMENTS)
        for backbone in BACKBONES
    }
    return [row for row in aligned if found[row["partition"], row["backbone"], row["seed"]] == most[row["backbone"]]]


def cell(values: Sequence[float]) -> str:
    """Return the median and the range."""
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.1f}{spread}" if values else ""


def prior_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the accuracy on clients' validation parts without and with label priors as a Markdown table."""
    lines = ["| backbone | as it is | with each client's priors |", "| --- | ---: | ---: |"]
    for backbone in BACKBONES:
        told = [row for row in rows if row["backbone"] == backbone and row["align"] == "BBSE"]
        before = [100 * row["validation"] for row in told]
        after = [100 * row["label_shift"]["validation"]["accuracy"] for row in told]
        lines.append(f"| {backbone} | {cell(before)} | {cell(after)} |")
    return "\n".join(lines)


BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main() -> None:
    """Run what is missing, print the tables, and write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("shift.jsonl"))
    parser.add_argument("--page", type=Path, help="write the tables there, between its marks")
    parser.add_argument("--page-only", action="store_true", help="run nothing: show what the results have")
    arguments = parser.parse_args()
    quieten(verbose=False)
    if not arguments.page_only:
        with tempfile.TemporaryDirectory() as folder:
            measure(arguments.seeds, arguments.results, Path(folder))
    rows = results(arguments.results)
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in whole(rows)}))
    told = f"(Seeds: {seeds}; in a column those with which all its lines were run.)"
    text = f"{table(rows)}\n\n{prior_table(rows)}\n\n{told}"
    print(text)
    if arguments.page:
        before, _, rest = arguments.page.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        arguments.page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


if __name__ == "__main__":
    main()
