"""Metrics that add up: sums over samples, so that they are exact under any split.

Sums are named float64 arrays. Every task has `count` and `loss` (summed over samples). Beside them:

- classes: `correct`, and `confusion` `(C, C)` (rows: true class) up to `LARGEST_CONFUSION` classes; where they were
  asked for also the sums of `fedgraft.confidence`;
- labels: `correct` (right decisions at 0.5, averaged over labels), `all_correct` (samples with all labels right),
  `true_positive`, `false_positive` and `false_negative`, each `(L,)`;
- real: `squared_error`, `absolute_error`, `target` and `target_square`, each `(T,)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft import confidence
from fedgraft.models.losses import Task

LARGEST_CONFUSION = 200
"""Classes up to which a confusion matrix is kept; above it would dwarf the head."""

SMALLEST_SPREAD = 1e-12
"""Variance of a target over its mean square below which it counts as constant: the difference of two sums in
float64 is then mostly rounding."""

Sums = dict[str, NDArray[np.float64]]


_PER_OUTPUT: dict[Task, tuple[str, ...]] = {
    "labels": ("true_positive", "false_positive", "false_negative"),
    "real": ("squared_error", "absolute_error", "target", "target_square"),
}


def metric_shapes(task: Task, num_outputs: int, with_confidence: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shape of each sum, by name; with those of `fedgraft.confidence`, if wanted, for classes."""
    shapes: dict[str, tuple[int, ...]] = {"count": (), "loss": ()}
    if task == "classes":
        confusion = {"confusion": (num_outputs, num_outputs)} if num_outputs <= LARGEST_CONFUSION else {}
        return shapes | {"correct": ()} | confusion | (confidence.SHAPES if with_confidence else {})
    if task == "labels":
        shapes |= {"correct": (), "all_correct": ()}
    return shapes | dict.fromkeys(_PER_OUTPUT[task], (num_outputs,))


def answer_counts(sums: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Return how often each class was answered, `(C,)`, of sums with a confusion matrix.

    Raises:
        ValueError: they have none, since there are too many classes.
    """
    if "confusion" not in sums:
        raise ValueError(f"there is no confusion matrix of more than {LARGEST_CONFUSION} classes")
    counts: NDArray[np.int64] = np.asarray(sums["confusion"]).sum(axis=0).astype(np.int64)
    return counts


def sample_scores(outputs: NDArray[Any], targets: NDArray[Any], task: Task) -> NDArray[np.float64]:
    """Return each sample's score, `(num_samples,)`: right or not, share of right labels, or squared error."""
    scores: NDArray[np.float64]
    if task == "classes":
        scores = (outputs.argmax(axis=1) == targets).astype(np.float64)
    elif task == "labels":
        scores = ((outputs > 0) == (targets > 0)).mean(axis=1, dtype=np.float64)
    else:
        scores = np.square(outputs.astype(np.float64) - targets.reshape(outputs.shape)).sum(axis=1)
    return scores


def metric_sums(outputs: NDArray[Any], targets: NDArray[Any], losses: NDArray[Any], task: Task) -> Sums:
    """Return the sums over samples.

    Args:
        outputs: `(num_samples, num_outputs)` logits, or predictions of real numbers.
        targets: classes `(num_samples,)`, labels `(num_samples, num_outputs)`, or real numbers.
        losses: `(num_samples,)`.
        task: what the targets are.
    """
    num_outputs = outputs.shape[1]
    sums: Sums = {
        "count": np.array(float(len(outputs))),
        "loss": np.array(losses.sum(dtype=np.float64)),
    }
    if task == "classes":
        predicted = outputs.argmax(axis=1)
        sums["correct"] = np.array(float((predicted == targets).sum()))
        if num_outputs <= LARGEST_CONFUSION:
            pairs = targets.astype(np.int64) * num_outputs + predicted
            counts = np.bincount(pairs, minlength=num_outputs**2)
            sums["confusion"] = counts.reshape(num_outputs, num_outputs).astype(np.float64)
        return sums
    if task == "labels":
        predicted, actual = outputs > 0, targets > 0
        right = predicted == actual
        sums["correct"] = np.array(right.mean(axis=1, dtype=np.float64).sum())
        sums["all_correct"] = np.array(float(right.all(axis=1).sum()))
        sums["true_positive"] = (predicted & actual).sum(axis=0).astype(np.float64)
        sums["false_positive"] = (predicted & ~actual).sum(axis=0).astype(np.float64)
        sums["false_negative"] = (~predicted & actual).sum(axis=0).astype(np.float64)
        return sums
    actual = targets.reshape(outputs.shape).astype(np.float64)
    error = outputs.astype(np.float64) - actual
    sums["squared_error"] = np.square(error).sum(axis=0)
    sums["absolute_error"] = np.abs(error).sum(axis=0)
    sums["target"] = actual.sum(axis=0)
    sums["target_square"] = np.square(actual).sum(axis=0)
    return sums


def add_sums(parts: list[Mapping[str, NDArray[Any]]]) -> Sums:
    """Return the sum of several parts, in their order, in float64."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            total[name] = np.asarray(value, dtype=np.float64) + total.get(name, np.float64(0))
    return total


def summarise(sums: Mapping[str, NDArray[Any]], task: Task) -> dict[str, float]:
    """Return the metrics that the sums give; empty if there is no sample.

    Classes: accuracy, balanced accuracy (mean recall of the classes that occur), macro F1 (over classes that
    occur or were predicted); where it was summed, log-loss and expected calibration error. Labels: accuracy, subset
    accuracy (all labels of a sample right), micro and macro F1. Real: mean squared error, its root, mean absolute error
    and R squared (each averaged over outputs; R squared only where the targets vary).
    """
    count = float(sums["count"])
    if count == 0:
        return {}
    metrics = {"loss": float(sums["loss"]) / count}
    if task in ("classes", "labels"):
        metrics["accuracy"] = float(sums["correct"]) / count
    if task == "classes" and "confusion" in sums:
        confusion = np.asarray(sums["confusion"])
        hits, actual, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
        metrics["balanced_accuracy"] = float((hits[actual > 0] / actual[actual > 0]).mean())
        seen = (actual + predicted) > 0
        metrics["macro_f1"] = float((2 * hits[seen] / (actual + predicted)[seen]).mean())
    if task == "classes" and "bin_count" in sums:
        metrics |= confidence.summarise_confidence(sums)
    if task == "labels":
        hits = np.asarray(sums["true_positive"])
        wrong = np.asarray(sums["false_positive"]) + np.asarray(sums["false_negative"])
        seen = (hits + wrong) > 0
        metrics["subset_accuracy"] = float(sums["all_correct"]) / count
        metrics["micro_f1"] = float(2 * hits.sum() / max(2 * hits.sum() + wrong.sum(), 1.0))
        metrics["macro_f1"] = float((2 * hits[seen] / (2 * hits + wrong)[seen]).mean()) if seen.any() else 0.0
    elif task == "real":
        squared, target = np.asarray(sums["squared_error"]), np.asarray(sums["target"])
        metrics["mean_squared_error"] = float((squared / count).mean())
        metrics["root_mean_squared_error"] = float(np.sqrt(squared / count).mean())
        metrics["mean_absolute_error"] = float((np.asarray(sums["absolute_error"]) / count).mean())
        square = np.asarray(sums["target_square"])
        spread = square - target**2 / count
        if (spread > SMALLEST_SPREAD * square).all():
            metrics["r_squared"] = float((1 - squared / spread).mean())
    return metrics


def over_clients(scores: NDArray[Any], counts: NDArray[Any], task: Task) -> dict[str, float]:
    """Return how scores are spread over clients: mean, mean of the worst tenth (at least one), standard deviation.

    Args:
        scores: `(num_clients,)`, as `sample_scores` means them: more is better, for real targets less.
        counts: `(num_clients,)` samples of each; clients without any do not count.
        task: what the targets are.
    """
    found = np.sort(np.asarray(scores, dtype=np.float64)[np.asarray(counts) > 0])
    if not len(found):
        return {}
    worst = -(-len(found) // 10)
    tenth = found[-worst:] if task == "real" else found[:worst]
    return {
        "client_mean": float(found.mean()),
        "client_worst_decile": float(tenth.mean()),
        "client_spread": float(found.std()),
    }


PRIMARY: dict[Task, str] = {"classes": "accuracy", "labels": "accuracy", "real": "mean_squared_error"}
"""The metric that displays and summaries lead with."""

BESIDE: dict[Task, tuple[str, ...]] = {
    "classes": (),
    "labels": ("subset_accuracy", "macro_f1"),
    "real": ("root_mean_squared_error", "mean_absolute_error", "r_squared"),
}
"""Metrics that they show beside it, where it does not say enough: most labels are absent, squared units mean little."""


def metric_rows(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's `metrics.jsonl`, in the order in which they were written."""
    text = (directory / "metrics.jsonl").read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]  # of a run that goes on, the last row may be half written
    return [json.loads(line) for line in whole.splitlines()]
