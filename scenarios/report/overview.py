"""All conditions beside each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import JsonValue

from scenarios.comparison.findings import Analysis, Condition
from scenarios.report.contenders import Looks
from scenarios.report.contents import Part, Topic
from scenarios.report.plots import Axis, Figure, Heat, Line, Lines
from scenarios.report.results_tables import overview_table
from scenarios.report.wording import score, sentence_case

MOST_INTERVALS = 4
"""Contenders up to which intervals are drawn; those of more would hide each other, and the table has them."""


def overview_part(analysis: Analysis, looks: Looks) -> Part | None:
    """Return the comparison of all conditions; None if there is only one."""
    if len(analysis.conditions) < 2:
        return None
    numbers = [_only_number(condition.settings) for condition in analysis.conditions]
    known = [number for number in numbers if number is not None]
    if len(known) == len(numbers) and len(set(known)) == len(known):
        figure = _over_number(analysis, looks, known)
    else:
        figure = _heat(analysis)
    lines = isinstance(figure.plot, Lines)
    rows = [row for condition in analysis.conditions for row in condition.rows if row.value is not None]
    shown = [name for name in analysis.contenders if any(row.contender == name for row in rows)]
    keys = looks.keys(shown) if lines and len(shown) > 1 else ()
    topic = Topic("At a glance", figures=(figure,), keys=keys)
    return Part("overview", "All conditions", table=overview_table(analysis, looks), topics=(topic,))


def _only_number(settings: Mapping[str, JsonValue]) -> float | None:
    values = list(settings.values())
    if len(values) == 1 and isinstance(values[0], int | float) and not isinstance(values[0], bool):
        return float(values[0])
    return None


def _over_number(analysis: Analysis, looks: Looks, numbers: list[float]) -> Figure:
    places = np.argsort(numbers, kind="stable")
    ordered = [(numbers[place], analysis.conditions[place]) for place in places]
    (key,) = analysis.conditions[0].settings
    log = min(numbers) > 0 and max(numbers) >= 20 * min(numbers)
    lines = tuple(_line(name, looks, ordered) for name in looks.ordered(analysis.contenders))
    title = f"{sentence_case(analysis.metric.title)} over {key.rpartition('.')[2]}"
    return Figure(
        key="all-conditions",
        title=title,
        caption="Mean over seeds"
        + (
            "; upright lines are 95 % intervals."
            if len(looks.titles) <= MOST_INTERVALS
            else "; intervals: see the table."
        )
        + (" Logarithmic." if log else ""),
        alternative=f"{title}. {_said(analysis)}",
        plot=Lines(
            Axis(key, log=log, marked=tuple(sorted(numbers)) if len(numbers) <= 12 else ()),
            Axis(analysis.metric.title, percent=analysis.metric.in_points),
            tuple(line for line in lines if len(line.x)),
        ),
        wide=True,
    )


def _line(name: str, looks: Looks, ordered: list[tuple[float, Condition]]) -> Line:
    found = [
        (x, row.value) for x, condition in ordered for row in condition.rows if row.contender == name and row.value
    ]
    style = looks.styles[name]
    few = len(looks.titles) <= MOST_INTERVALS
    ranged = few and style is not None and all(value.low is not None for _, value in found)
    return Line(
        looks.titles[name],
        [x for x, _ in found],
        [value.mean for _, value in found],
        [value.low for _, value in found if value.low is not None] if ranged else (),
        [value.high for _, value in found if value.high is not None] if ranged else (),
        style=style,
        marks=style is not None,
    )


def _heat(analysis: Analysis) -> Figure:
    values = np.full((len(analysis.contenders), len(analysis.conditions)), np.nan)
    for row, name in enumerate(analysis.contenders):
        for column, condition in enumerate(analysis.conditions):
            for found in condition.rows:
                if found.contender == name and found.value is not None:
                    values[row, column] = found.value.mean
    title = f"{sentence_case(analysis.metric.title)} under each condition"
    return Figure(
        key="all-conditions",
        title=title,
        caption="Mean over seeds.",
        alternative=f"{title}. {_said(analysis)}",
        plot=Heat(
            tuple(analysis.contenders.values()),
            tuple(condition.title for condition in analysis.conditions),
            values,
            label=analysis.metric.title,
            percent=analysis.metric.in_points,
            written=len(analysis.conditions) <= 12,
        ),
        wide=True,
    )


def _said(analysis: Analysis, limit: int = 24) -> str:
    said = [
        f"{row.title} under {condition.title}: {score(row.value.mean, analysis.metric)}"
        for condition in analysis.conditions
        for row in condition.rows
        if row.value is not None
    ]
    more = f"; and {len(said) - limit} more, in the table" if len(said) > limit else ""
    return "; ".join(said[:limit]) + more + "."
