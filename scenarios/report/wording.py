"""Numbers as a reader wants them: shares in per cent, bytes in megabytes, and what lies behind a +-."""

from __future__ import annotations

import re

from scenarios.comparison.estimates import Estimate
from scenarios.comparison.findings import Metric

NOTHING = "–"  # noqa: RUF001 - as typeset
"""Stands where there is no number."""

_BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def score(value: float, metric: Metric) -> str:
    """Return a value of a metric: `92.6 %` or `0.2731`."""
    return percent(value, 1) if metric.in_points else significant(value, 4)


def significant(value: float, digits: int, sign: str = "") -> str:
    """Return a number of so many digits; a large one in full, since `1.1e+03` is hard to compare with `2774`."""
    text = f"{value:{sign}.{digits}g}"
    return f"{value:{sign}.0f}" if "e+" in text and abs(value) < 1e7 else text


def percent(value: float, digits: int = 0) -> str:
    """Return a share in per cent: `85 %`."""
    return f"{100 * value:.{digits}f} %"


def margin(estimate: Estimate, metric: Metric) -> str:
    """Return `± 0.4` (percentage points, or the metric's own unit), or nothing with one seed."""
    half = estimate.half_width
    if half is None:
        return ""
    return f"± {100 * half:.1f}" if metric.in_points else f"± {significant(half, 2)}"


def change(value: float, metric: Metric) -> str:
    """Return a difference with its sign: `+4.1` percentage points, or in the metric's own unit."""
    return f"{100 * value:+.1f}" if metric.in_points else significant(value, 3, "+")


def size(num_bytes: float) -> str:
    """Return `2.16 MB`."""
    for factor, unit in _BYTE_UNITS:
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes:.0f} B"


def duration(seconds: float) -> str:
    """Return `5.3 s`, `2 min 10 s` or `1 h 5 min`."""
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def p_value(p: float) -> str:
    """Return `0.032`, or `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def share(value: float) -> str:
    """Return a probability or a share in whole per cent; never 0 or 100 for what is not quite."""
    if 0 < value < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= value < 1 else percent(value)


def count(number: int, thing: str) -> str:
    """Return `1 seed` or `1,200 seeds`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def file_name(text: str, longest: int = 80) -> str:
    """Return text as a part of a file's name and of an address: small letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:longest] or "x"


def sentence_case(text: str) -> str:
    """Return text with a capital at its beginning."""
    return text[:1].upper() + text[1:]
