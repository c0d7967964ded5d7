"""How sure a head is of its answers, and whether it may be: sums over samples, for one class a sample.

The expected calibration error is that of Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks",
ICML 2017, arXiv:1706.04599: confidence, the probability of the answer, is cut into bins of like width, and in each the
mean confidence is held against the share of right answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15
"""Of confidence, each 1/15 wide, as in the paper."""

SMALLEST_PROBABILITY = 1e-7
"""What a probability counts as at least in a logarithm: float32 can't tell smaller ones from 0 beside 1."""

SHAPES: dict[str, tuple[int, ...]] = {
    "log_loss": (),
    "bin_count": (NUM_BINS,),
    "bin_confidence": (NUM_BINS,),
    "bin_correct": (NUM_BINS,),
}


def class_probabilities(outputs: NDArray[Any], loss: str) -> NDArray[np.float64]:
    """Return `(num_samples, num_classes)` probabilities, as `fedgraft.trained.probabilities` gives them to users.

    Args:
        outputs: of a head.
        loss: the name of the loss that trained it: `softmax`, `sigmoid` or `squared`.
    """
    values = np.asarray(outputs, dtype=np.float64)
    if loss == "softmax":
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    if loss == "sigmoid":
        small = np.exp(-np.abs(values))  # never above 1, so that nothing overflows
        return np.where(values >= 0, 1.0, small) / (1.0 + small)
    return values.clip(0.0, 1.0)


def confidence_sums(outputs: NDArray[Any], targets: NDArray[Any], loss: str) -> dict[str, NDArray[np.float64]]:
    """Return the sums over samples: log-loss, and for each bin its samples, their confidence, and right answers.

    The bins are `(0, 1/15], (1/15, 2/15], ...`; a confidence of 0 stands in the first. The log-loss takes
    probabilities that do not sum to 1 (sigmoid and squared) over their sum.

    Args:
        outputs: `(num_samples, num_classes)` of a head.
        targets: `(num_samples,)` classes.
        loss: the name of the loss that trained it.
    """
    if not len(outputs):
        return {name: np.zeros(shape) for name, shape in SHAPES.items()}
    probabilities, actual = class_probabilities(outputs, loss), np.asarray(targets, dtype=np.int64)
    rows, answers = np.arange(len(actual)), np.asarray(outputs).argmax(axis=1)
    confidence = probabilities[rows, answers]
    places = np.ceil(confidence * NUM_BINS).astype(np.int64).clip(1, NUM_BINS) - 1
    return {
        "log_loss": np.array(-np.log(_of_the_true_class(probabilities, actual)).sum()),
        "bin_count": np.bincount(places, minlength=NUM_BINS).astype(np.float64),
        "bin_confidence": np.bincount(places, confidence, minlength=NUM_BINS),
        "bin_correct": np.bincount(places, (answers == actual).astype(np.float64), minlength=NUM_BINS),
    }


def _of_the_true_class(probabilities: NDArray[np.float64], actual: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each sample's share of the probabilities that falls to its class; an equal one where all are 0."""
    total = probabilities.sum(axis=1)
    own = probabilities[np.arange(len(actual)), actual]
    share = np.divide(own, total, out=np.full(len(own), 1.0 / probabilities.shape[1]), where=total > 0)
    return np.asarray(share.clip(SMALLEST_PROBABILITY, 1.0))


def summarise_confidence(sums: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return the mean log-loss and the expected calibration error of at least one sample."""
    count = float(np.asarray(sums["bin_count"]).sum())
    gaps = np.abs(np.asarray(sums["bin_confidence"]) - np.asarray(sums["bin_correct"]))
    return {"log_loss": float(sums["log_loss"]) / count, "calibration_error": float(gaps.sum()) / count}
