"""What the answers on the central test part look like: which classes are confused, and whether confidence is earned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scenarios.comparison.estimates import estimate
from scenarios.comparison.findings import Calibration, Confusion, ReliabilityBin
from scenarios.comparison.results import Result


def confusion(contender: str, title: str, results: Sequence[Result]) -> Confusion | None:
    """Return the counts of all seeds together; None where no run kept any."""
    tables = [np.array(table) for result in _judged(results) if (table := result.summary.get("central_confusion"))]
    if not tables or len({table.shape for table in tables}) > 1:
        return None
    return Confusion(contender, title, tuple(tuple(int(count) for count in row) for row in np.sum(tables, axis=0)))


def calibration(contender: str, title: str, results: Sequence[Result]) -> Calibration | None:
    """Return the expected calibration error over seeds, and the bins of all seeds together; None where not kept."""
    kept = [result for result in _judged(results) if result.summary.get("central_reliability")]
    error = estimate(
        {result.seed: value for result in kept if (value := result.final.get("central/calibration_error")) is not None}
    )
    if not kept or error is None:
        return None
    sums = {
        name: np.sum([result.summary["central_reliability"][name] for result in kept], axis=0)
        for name in ("count", "confidence", "correct")
    }
    edges = np.linspace(0.0, 1.0, len(sums["count"]) + 1)
    bins = []
    for place, count in enumerate(sums["count"]):
        some = count > 0
        bins.append(
            ReliabilityBin(
                low=float(edges[place]),
                high=float(edges[place + 1]),
                count=int(count),
                confidence=float(sums["confidence"][place] / count) if some else None,
                accuracy=float(sums["correct"][place] / count) if some else None,
            )
        )
    return Calibration(contender, title, error, tuple(bins))


def _judged(results: Sequence[Result]) -> list[Result]:
    """Return those whose answer is the head that the central test part judged."""
    return [result for result in results if not result.own_answer]
