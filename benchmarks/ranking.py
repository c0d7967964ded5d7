"""Do the scores of `fedgraft rank` order backbones and cuts as trained heads do? The tables of docs/ranking.md.

    python benchmarks/ranking.py --data digits [--json FILE]
    python benchmarks/ranking.py --data fashion-mnist --root FOLDER [--json FILE]

Candidates: the three EfficientNet-Lite with ImageNet weights at four cuts each, architectures with random weights, and
raw pixels. The scores come from `fedgraft.rank`, that is from the clients' training samples. What is true is the
accuracy on the central test part, which no score sees, of two heads trained to the end:

- the ridge head that `fedgraft run --set strategy=ridge` makes;
- multinomial logistic regression on standardised features, as scikit-learn trains it to convergence on all clients'
  training samples, with the penalty that does best on the clients' validation parts. It stands for a head trained by
  gradients whose every setting is right; 20 rounds of one learning rate are not that for features of so unlike scales.

Kendall's tau-b says how alike two orders are: 1 the same, 0 unrelated, -1 reversed. `lost` is the accuracy that one
gives away by taking a score's first choice rather than the best candidate.

FOLDER holds `{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz` of Fashion-MNIST; 1,500 training and 1,000 test images
are used.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.api import rank, resolve
from fedgraft.conduct import run_resolved
from fedgraft.launch import quieten
from fedgraft.models.settings import BackboneSettings
from fedgraft.ranking.records import Scored
from fedgraft.workspace import open_workspace

INPUT_SIZE = 48
"""px, of all but raw pixels."""
CUTS = ("stem", "blocks.1", "blocks.3", "penultimate")
LEARNED = tuple(f"bundled:efficientnet_lite{number}" for number in range(3))
UNTAUGHT = {
    "bundled:efficientnet_lite0": CUTS,
    "torchvision:resnet18": ("stem", "layer2", "penultimate"),
    "timm:convnext_atto": ("penultimate",),
}
PIXEL_SIZES = (8, 16)
NUM_IMAGES = {"train": 1_500, "t10k": 1_000}
"""Of Fashion-MNIST."""
HEADER_BYTES = {"images": 16, "labels": 8}
"""Before the numbers of an idx file."""
INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""scikit-learn's C."""
SCORES = {"validated": "left-out accuracy", "log_me": "LogME", "h_score": "H-score"}
TRUTHS = {"ridge": "ridge head", "trained": "logistic regression"}


def candidates() -> list[BackboneSettings]:
    """Return all that is ranked."""
    learned = [BackboneSettings(name=name, cut=cut, input_size=INPUT_SIZE) for name in LEARNED for cut in CUTS]
    untaught = [
        BackboneSettings(name=name, cut=cut, input_size=INPUT_SIZE, weights="random")
        for name, cuts in UNTAUGHT.items()
        for cut in cuts
    ]
    return [*learned, *untaught, *(BackboneSettings(name="pixels", input_size=size) for size in PIXEL_SIZES)]


def fashion_mnist(root: Path, to: Path) -> None:
    """Write the images that are used as one file that `source: arrays` reads."""

    def numbers(part: str, kind: str, dimensions: int) -> NDArray[np.uint8]:
        data = gzip.decompress((root / f"{part}-{kind}-idx{dimensions}-ubyte.gz").read_bytes())
        return np.frombuffer(data, np.uint8, offset=HEADER_BYTES[kind])

    parts = tuple(NUM_IMAGES)
    labels = [numbers(part, "labels", 1)[: NUM_IMAGES[part]] for part in parts]
    images = [numbers(part, "images", 3).reshape(-1, 28, 28)[: NUM_IMAGES[part]] for part in parts]
    np.savez(
        to,
        images=np.concatenate(images),
        labels=np.concatenate(labels).astype(np.int64),
        is_test=np.arange(sum(map(len, labels))) >= len(labels[0]),
    )


def overrides(data: str, root: Path | None, folder: Path) -> list[str]:
    """Return what differs from the quickstart: its 20 clients are Dirichlet with 0.3."""
    if data == "digits":
        return []
    if root is None:
        raise SystemExit("--data fashion-mnist needs --root, the folder of its four .gz files")
    fashion_mnist(root, folder / "fashion-mnist.npz")
    return [f"data.source={{name: arrays, path: {folder / 'fashion-mnist.npz'}}}"]


def ridge_accuracy(scenario: Any, folder: Path) -> float:
    """Return the accuracy on the central test part of the ridge head that a run makes."""
    done = run_resolved(scenario, folder, pictures=False, keep_data=True)
    return float(done.summary["central"]["accuracy"])


def trained_accuracy(scenario: Any) -> float:
    """Return that of logistic regression on standardised features of all clients' training samples."""
    from sklearn.linear_model import LogisticRegression

    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    federation = workspace.federation
    train, chosen_by, test = federation.train.indices, federation.validation.indices, federation.test
    features, targets = np.asarray(workspace.features, dtype=np.float64), federation.samples.targets
    spread = features[train].std(axis=0)
    scaled = (features - features[train].mean(axis=0)) / np.where(spread > 1e-8 * spread.max(), spread, np.inf)
    heads = [
        LogisticRegression(C=strength, max_iter=2000).fit(scaled[train], targets[train])
        for strength in INVERSE_PENALTIES
    ]
    best = max(heads, key=lambda head: head.score(scaled[chosen_by], targets[chosen_by]))
    return float(best.score(scaled[test], targets[test]))


def agreement(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return for each truth and score: Kendall's tau-b, its p-value, and what the score's first choice loses."""
    from scipy.stats import kendalltau

    found: dict[str, dict[str, dict[str, float]]] = {}
    for truth in TRUTHS:
        actual = np.array([row[truth] for row in rows])
        found[truth] = {}
        for score in SCORES:
            values = np.array([row[score] for row in rows])
            tau = kendalltau(values, actual)
            lost = float(actual.max() - actual[int(values.argmax())])
            found[truth][score] = {"tau": float(tau.statistic), "p": float(tau.pvalue), "lost": lost}
    return found


def measure(data: str, root: Path | None, asked: Sequence[BackboneSettings], folder: Path) -> dict[str, Any]:
    """Return scores and truths of all candidates, and how well they agree."""
    changes = overrides(data, root, folder)
    started = time.perf_counter()
    ranking = rank("quickstart", changes, backbones=list(asked), baselines=False, out=folder / "ranking")
    seconds = time.perf_counter() - started
    base = resolve("quickstart", [*changes, "strategy=ridge", "evaluation.per_client=false"])
    rows = []
    for number, scored in enumerate(ranking.candidates):
        scenario = base.model_copy(update={"backbone": scored.backbone, "shards": 1})
        truths = {"ridge": ridge_accuracy(scenario, folder / f"run-{number}"), "trained": trained_accuracy(scenario)}
        rows.append({**_facts(scored), **truths})
    learned = [row for row in rows if row["weights"] == "pretrained" and row["name"] != "pixels"]
    return {
        "data": data,
        "num_samples": ranking.num_samples,
        "num_clients": ranking.num_clients,
        "ranking_seconds": seconds,
        "chosen": ranking.best.title,
        "rows": rows,
        "agreement": {"all": agreement(rows), "learned": agreement(learned) if len(learned) > 2 else {}},
        "num_candidates": {"all": len(rows), "learned": len(learned)},
    }


def _facts(scored: Scored) -> dict[str, Any]:
    backbone = scored.backbone
    return {
        "name": backbone.name,
        "cut": backbone.cut,
        "weights": backbone.weights,
        "input_size": scored.input_size,
        "feature_dim": scored.feature_dim,
        "picture_seconds": scored.picture_seconds,
        **{score: getattr(scored, score) for score in SCORES},
    }


def show(found: dict[str, Any]) -> None:
    """Print both tables as Markdown."""
    print(f"\n{found['data']}: {found['num_samples']:,} training samples of {found['num_clients']} clients")
    print("\n| backbone | cut | features | left-out | LogME | H-score | ridge, test | trained, test |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in found["rows"]:
        name = row["name"] if row["name"] != "pixels" else f"pixels, {row['input_size']} px"
        name += ", random" if row["weights"] == "random" else ""
        shares = [f"{100 * row[key]:.1f}" for key in ("ridge", "trained")]
        scores = [f"{100 * row['validated']:.1f}", f"{row['log_me']:.3f}", f"{row['h_score']:.2f}"]
        print(f"| {' | '.join([name, row['cut'], str(row['feature_dim']), *scores, *shares])} |")
    for which, number in found["num_candidates"].items():
        if not found["agreement"][which]:
            continue
        print(f"\n{which}: {number} candidates\n\n| score | against | Kendall's tau | p | lost, points |")
        print("| --- | --- | ---: | ---: | ---: |")
        for truth, scores in found["agreement"][which].items():
            for score, values in scores.items():
                told = f"{values['tau']:.2f} | {values['p']:.2g} | {100 * values['lost']:.1f}"
                print(f"| {SCORES[score]} | {TRUTHS[truth]} | {told} |")
    print(f"\nthe ranking took {found['ranking_seconds']:.0f} s and takes {found['chosen']}")


def main() -> None:
    """Read the options, measure and print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits")
    parser.add_argument("--root", type=Path, help="folder of Fashion-MNIST's .gz files")
    parser.add_argument("--only", type=int, help="the last so many candidates only, to try the script")
    parser.add_argument("--json", type=Path, help="write all numbers there")
    options = parser.parse_args()
    quieten(verbose=False)
    asked = candidates()[-options.only :] if options.only else candidates()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.data, options.root, asked, Path(folder))
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
