"""Bytes of closed forms and alignments, before anything is asked: what `fedgraft check` shows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fedgraft.alignment.maps import ground_shapes
from fedgraft.alignment.moments import MomentKind, check_moments_size, moments_shapes
from fedgraft.alignment.settings import AdaBn, AlignSettings, Coral
from fedgraft.models.losses import Task
from fedgraft.wire.mixtures import mixture_bytes
from fedgraft.wire.statistics import check_statistics_size, class_rows_bytes, statistics_bytes
from strategies.base import ClassSums, Mixtures, Statistics, Strategy


def forecast(
    strategy: Strategy, num_outputs: int, feature_dim: int, task: Task, num_labels: NDArray[np.int64] | None
) -> Iterator[str]:
    """Yield a line about each of a closed form's exchanges whose size is known beforehand.

    Args:
        strategy: any; of one that trains nothing is said.
        num_outputs: classes, labels or real targets.
        feature_dim: features a sample.
        task: what the targets are.
        num_labels: classes at each client, `(num_clients,)`; None where targets are not classes.

    Raises:
        WireError: sums would be too large; the text says what would be less.
    """
    if strategy.most_rounds != 1:
        return
    for exchange in strategy.plan({}, 1):
        if isinstance(exchange, Statistics):
            check_statistics_size(num_outputs, feature_dim, exchange.second_moment, task)
            size = statistics_bytes(num_outputs, feature_dim, exchange.second_moment, task)
            moment = f", second moment {exchange.second_moment.replace('_', ' ')}"
            yield f"{strategy.title}: {size:,} bytes from each shard of a host (sums of features{moment})"
        elif isinstance(exchange, ClassSums) and num_labels is not None:
            size = class_rows_bytes(int(num_labels.sum()), feature_dim)
            yield f"{strategy.title}: at most {size:,} bytes from all hosts (sums of each client and class)"
        elif isinstance(exchange, Mixtures) and num_labels is not None:
            size = mixture_bytes(int(num_labels.sum()) * exchange.components, feature_dim, exchange.covariance)
            yield f"{strategy.title}: at most {size:,} bytes from all hosts ({exchange.covariance} Gaussian mixtures)"


def forecast_of_alignment(settings: AlignSettings, feature_dim: int) -> str:
    """Return a line about what features are brought onto: asked for once, and sent with each later request.

    Raises:
        WireError: moments would be too large; the text says what would be less.
    """
    if isinstance(settings, AdaBn):
        return "align adabn: nothing is sent; each client's training images pass the backbone twice, once"
    kind: MomentKind = settings.covariance if isinstance(settings, Coral) else "diagonal"
    check_moments_size(feature_dim, kind)
    up = 8 * sum(math.prod(shape) for shape in moments_shapes(feature_dim, kind).values())
    down = 8 * sum(math.prod(shape) for shape in ground_shapes(settings, feature_dim).values())
    return (
        f"align {settings.name}: {up:,} bytes from each shard of a host, once; {down:,} bytes more in each "
        "later message"
    )
