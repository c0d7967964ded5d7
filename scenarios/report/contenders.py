"""Who looks how: each contender has one colour, dash and marker in all figures, however many there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scenarios.comparison.estimates import Estimate
from scenarios.comparison.findings import Analysis, Condition, Row
from scenarios.report.contents import Key
from scenarios.report.look import STYLES
from scenarios.report.plots import Dot


@dataclass(frozen=True)
class Looks:
    """The styles of all contenders.

    Attributes:
        styles: contender -> number of its style; None: one of many in the background.
        titles: contender -> its name as a text speaks of it.
    """

    styles: dict[str, int | None]
    titles: dict[str, str]

    def ordered(self, names: Iterable[str]) -> list[str]:
        """Return names with those in the background first, so that the others are drawn over them."""
        return sorted(names, key=lambda name: self.styles[name] is not None)

    def keys(self, names: Iterable[str]) -> tuple[Key, ...]:
        """Return the key to figures that show these contenders; those in the background share one entry."""
        names = list(names)
        shown = [name for name in names if self.styles[name] is not None]
        others = tuple(name for name in names if self.styles[name] is None)
        keys = [Key(self.titles[name], (name,), self.styles[name]) for name in shown]
        if others:
            keys.append(Key(f"{len(others)} others", others, None))
        return tuple(keys)


def looks_of(analysis: Analysis) -> Looks:
    """Return each contender's look.

    Up to seven have one each, in the order of the plan. Of more, the baseline and the six that rank best over all
    conditions have one, and the others are drawn in the background.
    """
    names = list(analysis.contenders)
    shown = names
    if len(names) > len(STYLES):
        ranked = sorted(names, key=lambda name: _mean_rank(analysis, name))
        best = [name for name in ranked if name != analysis.baseline][: len(STYLES) - 1]
        shown = [name for name in names if name == analysis.baseline or name in best]
    styles: dict[str, int | None] = dict.fromkeys(names)
    styles |= {name: number for number, name in enumerate(shown)}
    return Looks(styles, dict(analysis.contenders))


def _mean_rank(analysis: Analysis, name: str) -> float:
    ranks = []
    for condition in analysis.conditions:
        order = [row.contender for row in best_first(condition, analysis.metric.higher_is_better)]
        ranks.append(order.index(name) if name in order else len(analysis.contenders))
    return float(np.mean(ranks)) if ranks else 0.0


def best_first(condition: Condition, higher_is_better: bool) -> list[Row]:
    """Return the rows that have a result, the best mean first."""
    rows = [row for row in condition.rows if row.value is not None]
    sign = -1.0 if higher_is_better else 1.0
    return sorted(rows, key=lambda row: sign * (row.value.mean if row.value else 0.0))


def dot_of(name: str, found: Estimate, factor: float, style: int | None) -> Dot:
    """Return an estimate as a dot with its interval, in another unit."""
    low, high = (None if end is None else factor * end for end in (found.low, found.high))
    return Dot(name, factor * found.mean, low, high, style)


def leader(condition: Condition, higher_is_better: bool) -> Row | None:
    """Return the row with the best mean; None where nothing came out."""
    rows = best_first(condition, higher_is_better)
    return rows[0] if rows else None
