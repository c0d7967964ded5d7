"""The deciding metric over rounds, bytes and seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from scenarios.comparison.findings import Analysis, Condition, Curve, Point
from scenarios.report.contenders import Looks
from scenarios.report.contents import Topic
from scenarios.report.plots import Axis, Figure, Line, Lines
from scenarios.report.wording import count, duration, score, sentence_case, size

MOST_POINTS = 150
"""Of a line; more are thinned out, which no screen shows."""

FEW_POINTS = 3
"""Of a line that needs marks to be seen, such as that of a closed form, which takes one round."""

SPREAD_FOR_LOG = 8
"""How many times as much the dearest contender takes as the cheapest, from which on the axis is logarithmic."""


def curves_topic(analysis: Analysis, condition: Condition, looks: Looks, part: str) -> Topic | None:
    """Return the learning curves of one condition; None where there are none."""
    curves = condition.curves.get(analysis.metric.name, ())
    curves = tuple(curve for curve in curves if curve.points)
    if not curves:
        return None
    figures = [_figure(kind, analysis, curves, looks, part) for kind in ("round", "bytes", "seconds")]
    keys = looks.keys(curve.contender for curve in curves) if len(curves) > 1 else ()
    return Topic("Learning curves", figures=tuple(figures), keys=keys)


def _figure(kind: str, analysis: Analysis, curves: Sequence[Curve], looks: Looks, part: str) -> Figure:
    factor, unit = _unit(max(getattr(curve.points[-1], kind) for curve in curves), kind)
    dear = [getattr(curve.points[-1], kind) for curve in curves]
    log = kind != "round" and max(dear) > SPREAD_FOR_LOG * max(min(dear), 1e-12)
    by_name = {curve.contender: curve for curve in curves}

    def place(point: Point) -> float:
        return float(getattr(point, kind)) / factor

    lines = tuple(_line(by_name[name], looks, place, log) for name in looks.ordered(by_name))
    title = sentence_case(analysis.metric.title)
    over = {"round": "rounds", "bytes": "traffic", "seconds": "time"}[kind]
    label = {"round": "round", "bytes": f"sent and received, {unit}", "seconds": unit}[kind]
    plot = Lines(
        Axis(label, log=log, whole=kind == "round"),
        Axis(analysis.metric.title, percent=analysis.metric.in_points),
        lines,
        target=analysis.target,
    )
    name = analysis.metric.name.replace("/", "-")
    return Figure(
        key=f"{name}-over-{over}{part}",
        title=f"{title} over {over}",
        caption=_caption(kind, analysis, curves, log),
        alternative=f"{title} over {over}. {_ends(kind, analysis, curves)}",
        plot=plot,
        wide=kind == "round",
    )


def _line(curve: Curve, looks: Looks, place: Callable[[Point], float], log: bool) -> Line:
    points = _thinned([point for point in curve.points if not log or place(point) > 0])
    style = looks.styles[curve.contender]
    banded = style is not None and all(point.low is not None for point in points)
    return Line(
        name=curve.title,
        x=[place(point) for point in points],
        y=[point.mean for point in points],
        low=[point.low for point in points if point.low is not None] if banded else (),
        high=[point.high for point in points if point.high is not None] if banded else (),
        style=style,
        marks=style is not None and len(points) <= FEW_POINTS,
    )


def _thinned(points: list[Point]) -> list[Point]:
    if len(points) <= MOST_POINTS:
        return points
    return [points[place] for place in np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).round().astype(int))]


def _unit(largest: float, kind: str) -> tuple[float, str]:
    """Return what to divide by, and the unit's name."""
    if kind == "bytes":
        found = [unit for unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if largest >= unit[0]]
        return found[0] if found else (1.0, "bytes")
    if kind == "seconds":
        found = [unit for unit in ((3600.0, "hours"), (60.0, "minutes")) if largest >= 3 * unit[0]]
        return found[0] if found else (1.0, "seconds")
    return (1.0, "round")


def _caption(kind: str, analysis: Analysis, curves: Sequence[Curve], log: bool) -> str:
    seeds = max(point.num_seeds for curve in curves for point in curve.points)
    texts = [f"Mean over {count(seeds, 'seed')}; bands are 95 % intervals." if seeds > 1 else "One seed."]
    if kind == "bytes":
        texts.append("Payload of all clients together, down and up.")
    if kind == "seconds":
        texts.append("Wall time of the rounds.")
    if log:
        texts.append("Logarithmic; round 0 has no place on it.")
    if analysis.target is not None:
        texts.append(f"Dotted: the target of {score(analysis.target, analysis.metric)}.")
    return " ".join(texts)


def _ends(kind: str, analysis: Analysis, curves: Sequence[Curve], limit: int = 12) -> str:
    """Say where each line ends."""
    said = []
    for curve in curves[:limit]:
        last = curve.points[-1]
        after = {"round": count(last.round, "round"), "bytes": size(last.bytes), "seconds": duration(last.seconds)}
        said.append(f"{curve.title} reaches {score(last.mean, analysis.metric)} after {after[kind]}")
    more = f"; and {len(curves) - limit} more" if len(curves) > limit else ""
    return "; ".join(said) + more + "."
