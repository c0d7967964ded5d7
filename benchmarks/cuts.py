"""Head only, deeper cuts, the whole backbone, from scratch: at equal rounds and equal bytes, the page docs/cuts.md.

    python benchmarks/cuts.py [--root FOLDER] [--seeds 3] [--results cuts.jsonl] [--page docs/cuts.md]

FOLDER holds `{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz` of Fashion-MNIST; without it, scikit-learn's digits are
all. The measured part of the page, between its two marks, is written anew, with the picture beside it.

A seed draws 400 training, 100 validation and 400 test images, the partition among 8 clients, the first head and the
batches, alike for all lines. All have the bundled EfficientNet-Lite0 at 32 px with the head at `blocks.4`; "the whole
backbone" is all that lies before that head. A line runs with each of its rates on the first seed; the rate with the
best validation accuracy at the end is that of the other seeds, and the only one shown; stages take the rate of the run
without them. Bytes are those of the run's own records: down and up, of all its rounds, one shard.

Each finished run is one line of `--results` (JSON Lines); a run that stands there is not run again, so that a killed
benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.api import rank, resolve
from fedgraft.conduct import run_resolved
from fedgraft.errors import FedGraftError
from fedgraft.files import replacing
from fedgraft.launch import quieten

NUM_TRAIN = 500
"""With the clients' validation parts, a fifth."""
NUM_TEST = 400
ROUNDS = 8
"""At which lines are compared with equal rounds."""
BUDGETS = (1.0, 10.0, 40.0)
"""MB at which they are compared with equal bytes."""
HEADER_BYTES = {"images": 16, "labels": 8}
"""Before the numbers of an idx file."""
SHARED = (
    "name=cuts",
    "backbone={name: 'bundled:efficientnet_lite0', cut: blocks.4, input_size: 32}",
    "data.partition={name: dirichlet, clients: 8, alpha: 1}",
    "data.validation_fraction=0.2",
    "train={local_epochs: 1, batch_size: 10, optimizer: {name: adam}}",
    "server.checkpoint_every=100",
)
HEAD_RATES = (0.001, 0.003)
BLOCK_RATES = (0.0003, 0.001)
"""Of Adam: for heads, and for blocks beneath a head that learns at 0.003."""


@dataclass(frozen=True)
class Line:
    """A way of training.

    Attributes:
        rounds: how many.
        every: so many rounds are between two looks at the test part.
        rates: learning rates that it is tried with; of the head, or with `cut` of the blocks past it.
        cut: past which it trains, from its last stage on.
        before: stages before that.
        like: the line whose rate it has, so that stages are compared at the rate that suits the run without them.
        overrides: what else differs.
    """

    rounds: int = ROUNDS
    every: int = 1
    rates: tuple[float, ...] = BLOCK_RATES
    cut: str | None = None
    before: tuple[str, ...] = ()
    like: str | None = None
    overrides: tuple[str, ...] = ()

    def scenario(self, rate: float | None) -> list[str]:
        """Return the overrides with one of its rates."""
        looked = f"evaluation={{per_client: false, every: {self.every}}}"
        if rate is None or self.cut is None:
            rate_of_head = f"train.optimizer.learning_rate={rate or 0.003}"
            return [*self.overrides, looked, f"server.rounds={self.rounds}", rate_of_head]
        blocks = f"{{cut: {self.cut}, rate: {rate / 0.003:.6g}}}"
        own = [*self.overrides, looked, "train.optimizer.learning_rate=0.003"]
        if not self.before:
            return [*own, f"unfreeze={blocks}", f"server.rounds={self.rounds}"]
        rounds = self.rounds - sum(STAGES[name][1] for name in self.before)
        last = f"{{name: blocks, unfreeze: {blocks}, server: {{rounds: {rounds}}}}}"
        return [*own, f"stages=[{', '.join([*(STAGES[name][0] for name in self.before), last])}]"]


STAGES = {
    "ridge": ("{name: closed-form, strategy: ridge}", 1),
    "head": ("{name: head, server: {rounds: 2}}", 2),
}
"""Stages that come before blocks are trained, and their rounds."""
LINES = {
    "ridge head, in closed form": Line(1, rates=(), overrides=("strategy=ridge",)),
    "head alone": Line(500, 4, HEAD_RATES),
    "past `blocks.3`": Line(11, cut="blocks.3"),
    "the whole backbone": Line(cut="input"),
    "from scratch": Line(rates=(0.001, 0.003), cut="input", overrides=("backbone.weights=random",)),
    "ridge, then past `blocks.3`": Line(like="past `blocks.3`", cut="blocks.3", before=("ridge",)),
    "ridge, head, then past `blocks.3`": Line(like="past `blocks.3`", cut="blocks.3", before=("ridge", "head")),
    "ridge, head, then the whole backbone": Line(like="the whole backbone", cut="input", before=("ridge", "head")),
}
COLOURS = ("#000000", "#0072b2", "#009e73", "#d55e00", "#999999", "#e69f00", "#cc79a7", "#f0e442")


def samples(data: str, root: Path | None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all images and labels of a data set."""
    if data == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        return (found.images * (255 / 16)).astype(np.uint8), found.target.astype(np.int64)

    def numbers(part: str, kind: str, dimensions: int) -> NDArray[np.uint8]:
        file = Path(root or ".") / f"{part}-{kind}-idx{dimensions}-ubyte.gz"
        return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=HEADER_BYTES[kind])

    images = [numbers(part, "images", 3).reshape(-1, 28, 28) for part in ("train", "t10k")]
    return np.concatenate(images), np.concatenate([numbers(part, "labels", 1) for part in ("train", "t10k")]).astype(
        int
    )


def write_samples(data: str, root: Path | None, seed: int, to: Path) -> None:
    """Write the samples of a seed as one file that `source: arrays` reads."""
    images, labels = samples(data, root)
    drawn = np.random.default_rng(seed).permutation(len(labels))[: NUM_TRAIN + NUM_TEST]
    np.savez(to, images=images[drawn], labels=labels[drawn], is_test=np.arange(len(drawn)) >= NUM_TRAIN)


def outcome(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run a scenario; return its scores and bytes by round, and the processor's seconds, or what it failed of."""
    started = time.process_time()
    try:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            run = run_resolved(resolve("quickstart", overrides), Path(name) / "run", pictures=False, keep_data=True)
            rows, validated = run.metrics, run.summary["validation"]["accuracy"]
    except FedGraftError as error:  # too high a rate
        return {"error": str(error)}
    spent = [(row["round"], row["bytes_down"] + row["bytes_up"]) for row in rows if "bytes_up" in row]
    curve = [
        (row["round"], row["accuracy"], sum(size for number, size in spent if number <= row["round"]))
        for row in rows
        if row["group"] == "central"
    ]
    return {"curve": curve, "validated": validated, "cpu_seconds": round(time.process_time() - started, 1)}


def ranked(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return what `fedgraft rank` says of all cuts, and the accuracy of each cut's ridge head on the test part."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name) / "ranking"
        found = rank("quickstart", list(overrides), backbones=["bundled:efficientnet_lite0"], cuts="all", out=out)
    rows = []
    for scored in [*found.candidates, *found.baselines]:
        backbone = scored.backbone
        where = f"cut: {backbone.cut}, input_size: {scored.input_size}, weights: {backbone.weights}"
        given = f"{{name: '{backbone.name}', {where}}}"
        run = outcome(
            [*overrides, "strategy=ridge", "server.rounds=1", "evaluation.per_client=false", f"backbone={given}"],
            folder,
        )
        name = str(backbone.cut) if backbone.name != "pixels" else "raw pixels"
        name += " (random weights)" if backbone.weights == "random" else ""
        rows.append({"cut": name, "validated": scored.validated, "ridge": run["curve"][-1][1]})
    return {"ranking": rows, "chosen": str(found.best.backbone.cut)}


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Run what has no line in the results yet, and add one for each run."""
    known = results(arguments.results)
    sets = ["digits"] + (["fashion-mnist"] if arguments.root else [])
    for seed in range(1, arguments.seeds + 1):
        for data in sets:
            path = folder / f"{data}-{seed}.npz"
            write_samples(data, arguments.root, seed, path)
            shared = [*SHARED, f"data.source={{name: arrays, path: {path}}}", f"seed={seed}"]
            for name, line in {"ranking": None, **LINES}.items():
                for rate in [None] if line is None or not line.rates else rates_for(name, line, data, seed, known):
                    key = {"data": data, "line": name, "seed": seed, "rate": rate}
                    if any(all(row[part] == key[part] for part in key) for row in known):
                        continue
                    row = key | (
                        ranked(folder, shared) if line is None else outcome([*shared, *line.scenario(rate)], folder)
                    )
                    known.append(row)
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(json.dumps({name: value for name, value in row.items() if name != "curve"}), flush=True)


def rates_for(name: str, line: Line, data: str, seed: int, rows: Iterable[Mapping[str, Any]]) -> Iterable[float | None]:
    """Return the rates that a line is run with: all on the first seed, on others the one that did best there."""
    return line.rates if seed == 1 and line.like is None else [best_rate(name, data, rows)]


def best_rate(name: str, data: str, rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the rate with the best validation accuracy on the first seed; the first of those alike."""
    name = LINES[name].like or name
    first = [row for row in rows if (row["line"], row["data"], row["seed"]) == (name, data, 1)]
    return max(first, key=lambda row: row.get("validated", 0.0))["rate"] if first else None


def results(path: Path) -> list[dict[str, Any]]:
    """Return the finished runs."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def whole(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rows of seeds that all lines have been run with, data set by data set."""
    found: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        found.setdefault((row["data"], row["seed"]), set()).add(row["line"])
    return [row for row in rows if LINES.keys() <= found[row["data"], row["seed"]]]


def curves(rows: Sequence[Mapping[str, Any]], data: str) -> dict[str, list[list[tuple[int, float, int]]]]:
    """Return for each line the curves of its seeds: round, accuracy, and bytes until then."""
    found: dict[str, list[list[tuple[int, float, int]]]] = {}
    for name in LINES:
        rate = best_rate(name, data, rows)
        mine = [row for row in rows if (row["line"], row["data"], row["rate"]) == (name, data, rate)]
        found[name] = [row["curve"] for row in mine if "curve" in row]
    return found


def table(rows: Sequence[Mapping[str, Any]], data: str) -> str:
    """Return the comparison on one data set as a Markdown table: medians over seeds, and their range, in percent."""
    heads = [f"after {ROUNDS} rounds", *(f"{budget:g} MB" for budget in BUDGETS)]
    lines = [
        f"| trained | rate | MB a round | {' | '.join(heads)} |",
        f"| --- | ---: | ---: |{' ---: |' * len(heads)}",
    ]
    for name, found in curves(rows, data).items():
        if not found:
            continue
        rate, (last, _, spent) = best_rate(name, data, rows), found[0][-1]
        points = [[curve[-1][1] if curve[-1][0] < ROUNDS else at_round(curve) for curve in found]]
        points += [[within(curve, 1e6 * budget) for curve in found] for budget in BUDGETS]
        facts = [name, "" if rate is None else f"{rate:g}", f"{spent / last / 1e6:.3g}"]
        lines.append(f"| {' | '.join([*facts, *(cell(values) for values in points)])} |")
    return "\n".join(lines)


def at_round(curve: Sequence[tuple[int, float, int]]) -> float:
    """Return the accuracy after `ROUNDS` rounds."""
    return next(accuracy for number, accuracy, _ in curve if number == ROUNDS)


def within(curve: Sequence[tuple[int, float, int]], budget: float) -> float | None:
    """Return the accuracy of the last round that was looked at within a budget of bytes; None: there was none."""
    found = [accuracy for number, accuracy, spent in curve if number > 0 and spent <= budget]
    return found[-1] if found else None


def cell(values: Sequence[float | None]) -> str:
    """Return the median of the seeds and their range in percent; a dash where the budget is too small for one round."""
    there = [100 * value for value in values if value is not None]
    if len(there) < len(values):
        return "-"
    spread = f" ({min(there):.1f} to {max(there):.1f})" if len(there) > 1 else ""
    return f"{statistics.median(there):.1f}{spread}"


def ranking_table(rows: Sequence[Mapping[str, Any]], data: str) -> str:
    """Return the ranking of the cuts as a Markdown table, with Kendall's tau-b of both columns for each seed."""
    from scipy.stats import kendalltau

    found = [row for row in rows if (row["line"], row["data"]) == ("ranking", data)]
    by_cut: dict[str, list[Mapping[str, Any]]] = {}
    for row in found:
        for scored in row["ranking"]:
            by_cut.setdefault(scored["cut"], []).append(scored)
    lines = ["| cut | left-out accuracy | ridge head, test part |", "| --- | ---: | ---: |"]
    for cut, scored in by_cut.items():
        lines.append(
            f"| {cut} | {cell([one['validated'] for one in scored])} | {cell([one['ridge'] for one in scored])} |"
        )
    taus = [
        kendalltau([one["validated"] for one in row["ranking"]], [one["ridge"] for one in row["ranking"]]).statistic
        for row in found
    ]
    chosen = ", ".join(f"`{row['chosen']}`" for row in found)
    told = ", ".join(f"{tau:.2f}" for tau in taus)
    return "\n".join([*lines, "", f"Kendall's tau of the two columns, by seed: {told}. Taken: {chosen}."])


def draw(rows: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw accuracy over rounds and over bytes, medians over seeds, a row of pictures for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets = list(dict.fromkeys(row["data"] for row in rows))
    figure, places = pyplot.subplots(len(sets), 2, figsize=(10, 3.6 * len(sets)), layout="constrained", squeeze=False)
    for data, (by_round, by_bytes) in zip(sets, places, strict=True):
        for (name, found), colour in zip(curves(rows, data).items(), COLOURS, strict=True):
            points = [
                (at[0][0], statistics.median(point[1] for point in at), at[0][2] / 1e6)
                for at in zip(*found, strict=False)
                if at[0][0] > 0
            ]
            style = {"color": colour, "marker": ".", "linewidth": 1.6, "linestyle": ":" if "," in name else "-"}
            early = [point for point in points if point[0] <= ROUNDS]
            by_round.plot([p[0] for p in early], [100 * p[1] for p in early], label=name.replace("`", ""), **style)
            by_bytes.plot([p[2] for p in points], [100 * p[1] for p in points], **style)
        by_round.set_ylabel(f"{data}: accuracy, %")
        by_round.set_xlabel("round")
        by_bytes.set_xlabel("MB, down and up")
        by_bytes.set_xscale("log")
        for axes in (by_round, by_bytes):
            axes.grid(alpha=0.3)
    figure.legend(*places[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    with replacing(picture) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


def measured(rows: Sequence[Mapping[str, Any]], picture: str) -> str:
    """Return the measured part of the page."""
    parts = [f"![Accuracy over rounds and over bytes]({picture})"]
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        spent = sum(row.get("cpu_seconds", 0) for row in mine)
        parts.append(f"### {data}\n\n{table(rows, data)}\n\n{ranking_table(rows, data)}")
        seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in mine}))
        parts.append(f"(Seeds: {seeds}. The runs took {spent / 60:.0f} minutes of one core.)")
    return "\n\n".join(parts)


def write_page(page: Path, text: str) -> None:
    """Put the measured part between the marks of a page."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST's .gz files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("cuts.jsonl"))
    parser.add_argument("--page", type=Path, help="write the measured part there")
    parser.add_argument("--page-only", action="store_true", help="run nothing: show what the results have")
    arguments = parser.parse_args()
    quieten(verbose=False)
    if not arguments.page_only:
        with tempfile.TemporaryDirectory() as folder:
            measure(arguments, Path(folder))
    rows = whole(results(arguments.results))
    text = measured(rows, "pictures/cuts.png")
    print(text)
    if arguments.page:
        draw(rows, arguments.page.parent / "pictures" / "cuts.png")
        write_page(arguments.page, text)


if __name__ == "__main__":
    main()
