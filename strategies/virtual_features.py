"""A linear head trained on features that were drawn, not collected: softmax regression in NumPy.

Minimised is the mean cross-entropy plus `weight_decay / 2 |V|^2` over the standardised features `z = (x - m) / s`, with
`V = W s`, by Nesterov's accelerated gradients (restarted where they turn uphill; O'Donoghue and Candes, 2015,
arXiv:1204.3982). The step is one over the curvature, so nothing depends on the features' scale. The problem is convex:
more steps from any head come to the same one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.base import Arrays

Single = NDArray[np.float32]

MOST_BYTES = 2_000_000_000
"""Of drawn features, at once in the server's memory."""


def check_draws(num_samples: int, feature_dim: int) -> None:
    """Refuse more draws than fit.

    Raises:
        ValueError: more than `MOST_BYTES` in float32.
    """
    if 4 * num_samples * feature_dim > MOST_BYTES:
        raise ValueError(
            f"{num_samples:,} virtual samples of {feature_dim:,} features are {4 * num_samples * feature_dim:,} bytes, "
            f"more than {MOST_BYTES:,}; draw fewer"
        )


def trained_on(
    head: Arrays, features: Single, classes: NDArray[np.int64], steps: int, weight_decay: float
) -> dict[str, NDArray[np.float64]]:
    """Return the head after training on features from `head` on.

    Args:
        head: `weight` `(C, D)` and, if it has one, `bias` `(C,)`.
        features: `(num_samples, D)`; they are standardised in place.
        classes: `(num_samples,)`.
        steps: gradient steps.
        weight_decay: see the top of this file.
    """
    has_bias = "bias" in head
    mean = features.mean(axis=0, dtype=np.float64) if has_bias else np.zeros(features.shape[1])
    features -= mean.astype(np.float32)
    scale = np.sqrt(np.square(features, dtype=np.float64).mean(axis=0))
    scale = np.maximum(scale, 1e-6 * max(float(scale.max()), 1e-30))
    features /= scale.astype(np.float32)
    weight = np.asarray(head["weight"], dtype=np.float64)
    start = [weight * scale, *([head["bias"] + weight @ mean] if has_bias else [])]
    values = _descended([value.astype(np.float32) for value in start], features, classes, steps, weight_decay)
    weight = values[0].astype(np.float64) / scale
    return {"weight": weight, **({"bias": values[1].astype(np.float64) - weight @ mean} if has_bias else {})}


def _descended(
    start: list[Single], features: Single, classes: NDArray[np.int64], steps: int, weight_decay: float
) -> list[Single]:
    """Return weight and bias, if any, after accelerated gradient steps."""
    step = np.float32(1 / (0.5 * _curvature(features, len(start) > 1) + weight_decay))
    values, ahead, momentum = start, start, 1.0
    for _ in range(steps):
        slopes = _slopes(ahead, features, classes, weight_decay)
        moved = [value - step * slope for value, slope in zip(ahead, slopes, strict=True)]
        uphill = sum(float((slope * (new - old)).sum()) for slope, new, old in zip(slopes, moved, values, strict=True))
        if uphill > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        share = np.float32((momentum - 1) / following)
        ahead = [new + share * (new - old) for new, old in zip(moved, values, strict=True)]
        values, momentum = moved, following
    return values


def _slopes(values: list[Single], features: Single, classes: NDArray[np.int64], weight_decay: float) -> list[Single]:
    """Return the gradients at weight and bias."""
    outputs: NDArray[Any] = features @ values[0].T
    if len(values) > 1:
        outputs += values[1]
    outputs -= outputs.max(axis=1, keepdims=True)
    np.exp(outputs, out=outputs)
    outputs /= outputs.sum(axis=1, keepdims=True)
    outputs[np.arange(len(classes)), classes] -= 1
    outputs /= len(classes)
    slopes: list[Single] = [outputs.T @ features + np.float32(weight_decay) * values[0]]
    return [*slopes, outputs.sum(axis=0)] if len(values) > 1 else slopes


def _curvature(features: Single, has_bias: bool) -> float:
    """Return the largest eigenvalue of `X^T X / n` by the power method, and 10 % more."""
    vector: NDArray[Any] = np.random.default_rng(0).standard_normal((features.shape[1],), dtype=np.float32)
    largest = 1.0
    for _ in range(30):
        vector /= np.linalg.norm(vector)
        vector = np.asarray(features.T @ (features @ vector)) / np.float32(len(features))
        largest = float(np.linalg.norm(vector))
    return max(1.1 * largest, 1.0 if has_bias else 0.0)  # the bias's own eigenvalue is 1: features are centred
