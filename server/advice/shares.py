"""Shares of right answers, and when two of them differ by more than chance."""

from __future__ import annotations

from fedgraft.metrics import Sums

LEAST_GAP = 0.05
"""Differences of accuracy below it are not spoken of, however certain."""

LEAST_SAMPLES = 20
"""Samples below which no accuracy is spoken of."""


def accuracy(sums: Sums) -> tuple[float, float] | None:
    """Return the share of right answers and the number of samples; None of too few."""
    count = float(sums.get("count", 0))
    return (float(sums["correct"]) / count, count) if count >= LEAST_SAMPLES else None


def apart(one: float, count: float, other: float, others: float) -> bool:
    """Whether two shares differ by more than two standard errors, and enough to matter."""
    error = (standard_error(one, count) ** 2 + standard_error(other, others) ** 2) ** 0.5
    return bool(abs(one - other) > max(2 * error, LEAST_GAP))


def standard_error(share: float, count: float) -> float:
    """Return the standard error of a share, of one that is never taken for certain."""
    smoothed = (share * count + 1) / (count + 2)
    return float((smoothed * (1 - smoothed) / count) ** 0.5)


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.0f} %"
