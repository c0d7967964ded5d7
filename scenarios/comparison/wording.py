"""Numbers and lists as sentences need them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scenarios.comparison.estimates import Difference, Estimate
from scenarios.comparison.findings import Metric


def joined(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def count(number: int, noun: str) -> str:
    """Return `1 seed` or `5 seeds`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def value_text(value: float, metric: Metric) -> str:
    """Return a value of a metric: `91.2 %`, or `0.354`."""
    return f"{100 * value:.1f} %" if metric.in_points else f"{value:.3g}"


def estimate_text(found: Estimate, metric: Metric) -> str:
    """Return a mean with its interval: `91.2 ± 0.6 %`."""
    if found.half_width is None:
        return value_text(found.mean, metric)
    if metric.in_points:
        return f"{100 * found.mean:.1f} ± {100 * found.half_width:.1f} %"
    return _with_interval(found.mean, found.half_width)


def amount_text(found: Estimate, metric: Metric) -> str:
    """Return the size of a difference without its sign, with its interval: `4.1 ± 0.6 points`."""
    mean, half = abs(found.mean), found.half_width
    if not metric.in_points:
        return f"{mean:.3g}" if half is None else _with_interval(mean, half)
    finest = 100 * (half or mean)
    digits = min(4, max(1, -math.floor(math.log10(finest)))) if finest else 1
    if half is None:
        return f"{100 * mean:.{digits}f} points"
    return f"{100 * mean:.{digits}f} ± {100 * half:.{digits}f} points"


def _with_interval(mean: float, half: float) -> str:
    """Return two numbers to the same place, the second of two digits: `0.024 ± 0.011`."""
    if not half:
        return f"{mean:.3g} ± 0"
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:,.{digits}f} ± {half:,.{digits}f}"


def under_all(number: int) -> str:
    """Return `under both conditions`, or `under all 3 conditions`."""
    return "under both conditions" if number == 2 else f"under all {number} conditions"


def on_seeds(found: Difference, wins: int) -> str:
    """Return on how many seeds one was ahead: `on all 5 seeds`, `on 4 of 5 seeds`."""
    if found.num_seeds == 1:
        return f"on seed {next(iter(found.estimate.values))}"
    both = "both" if found.num_seeds == 2 else f"all {found.num_seeds}"
    return f"on {both} seeds" if wins == found.num_seeds else f"on {wins} of {found.num_seeds} seeds"


def bytes_text(number: float) -> str:
    """Return a number of bytes with a unit: `6.5 MB`."""
    if number < 1000:
        return f"{number:.0f} bytes"
    power = min(3, int(math.log10(number)) // 3)
    return f"{number / 1000**power:.3g} {('kB', 'MB', 'GB')[power - 1]}"
