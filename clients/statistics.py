"""Sums of features: what a host answers to `query.statistics`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.models.losses import Task
from fedgraft.wire.statistics import SecondMoment, check_class_rows_size, statistics_shapes

CHUNK_BYTES = 32 * 1024 * 1024
"""Float64 features that are in memory at once; a copy or two of them come on top."""

Sums = dict[str, NDArray[np.float64]]


def rows_a_chunk(feature_dim: int) -> int:
    """Return how many rows of features are taken at once."""
    return max(1, CHUNK_BYTES // (8 * feature_dim))


def statistics_sums(
    features: NDArray[Any],
    targets: NDArray[Any],
    rows: NDArray[np.int64],
    task: Task,
    num_outputs: int,
    second_moment: SecondMoment,
    radial_moments: bool = False,
) -> Sums:
    """Return the sums over the given rows, by name, as `statistics_shapes` describes them.

    Products and sums are in float64, whatever the features are stored in. They go through NumPy, which computes a
    product `X^T X` once for both halves; torch takes twice as long.

    Args:
        features: `(num_samples, feature_dim)` of all samples, float32 or float16.
        targets: of all samples.
        rows: which samples, `(num_rows,)`.
        task: what the targets are.
        num_outputs: classes, labels or real targets.
        second_moment: which second moment.
        radial_moments: whether the radial moments come too.
    """
    feature_dim = features.shape[1]
    shapes = statistics_shapes(num_outputs, feature_dim, second_moment, task, radial_moments)
    sums: Sums = {name: np.zeros(shape) for name, shape in shapes.items()}
    step = rows_a_chunk(feature_dim)
    for first in range(0, len(rows), step):
        chosen = rows[first : first + step]
        if task == "classes":
            chosen = chosen[np.argsort(targets[chosen], kind="stable")]  # a class's rows lie together
        chunk, answers = features[chosen].astype(np.float64), targets[chosen]
        if task == "classes":
            _add_classes(sums, chunk, answers, second_moment)
        else:
            _add_targets(sums, chunk, answers.reshape(len(chosen), num_outputs).astype(np.float64), second_moment)
        if second_moment == "shared":
            sums["second_moment"] += chunk.T @ chunk
        if radial_moments:
            lengths = np.square(chunk).sum(axis=1)
            sums["third_moment"] += lengths @ chunk
            sums["fourth_moment"] += lengths @ lengths
    return sums


def _add_classes(
    sums: Sums, chunk: NDArray[np.float64], classes: NDArray[np.int64], second_moment: SecondMoment
) -> None:
    """Add rows that are sorted by class."""
    present, starts, counts = np.unique(classes, return_index=True, return_counts=True)
    sums["class_count"][present] += counts
    for number, start, count in zip(present.tolist(), starts.tolist(), counts.tolist(), strict=True):
        part = chunk[start : start + count]
        sums["class_sum"][number] += part.sum(axis=0)
        if second_moment == "diagonal":
            sums["square_sum"][number] += np.square(part).sum(axis=0)
        elif second_moment == "per_class":
            sums["second_moment"][number] += part.T @ part


def _add_targets(
    sums: Sums, chunk: NDArray[np.float64], targets: NDArray[np.float64], second_moment: SecondMoment
) -> None:
    """Add rows with their labels or real targets, `(num_rows, num_outputs)`."""
    sums["count"] += len(chunk)
    sums["feature_sum"] += chunk.sum(axis=0)
    sums["target_sum"] += targets.sum(axis=0)
    sums["target_square"] += np.square(targets).sum(axis=0)
    sums["cross_moment"] += targets.T @ chunk
    if second_moment == "diagonal":
        sums["square_sum"] += np.square(chunk).sum(axis=0)


def class_rows(
    features: NDArray[Any], targets: NDArray[Any], clients: Sequence[NDArray[np.int64]]
) -> dict[str, NDArray[Any]]:
    """Return counts and summed features of each client's classes, as `class_rows_shapes` describes them.

    Args:
        features: `(num_samples, feature_dim)` of all samples.
        targets: classes of all samples.
        clients: each client's training rows.

    Raises:
        WireError: they would be too large.
    """
    present = [np.unique(targets[rows], return_counts=True) for rows in clients]
    lengths = [len(classes) for classes, _ in present]
    check_class_rows_size(sum(lengths), features.shape[1])
    sums = np.zeros((sum(lengths), features.shape[1]))
    first = 0
    for rows, (classes, counts) in zip(clients, present, strict=True):
        by_class = rows[np.argsort(targets[rows], kind="stable")]
        for part in np.split(by_class, counts.cumsum()[:-1]) if len(classes) else ():
            sums[first] = features[part].sum(axis=0, dtype=np.float64)
            first += 1
    none = np.zeros(0, dtype=np.int64)
    return {
        "client": np.repeat(np.arange(len(clients)), lengths),
        "class": np.concatenate([none, *(classes for classes, _ in present)]),
        "count": np.concatenate([none, *(counts for _, counts in present)]),
        "class_sum": sums,
    }
