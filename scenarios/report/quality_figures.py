"""What is taken for what, and how far a contender's confidence can be trusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scenarios.comparison.findings import Analysis, Calibration, Condition, Confusion
from scenarios.report.contenders import Looks, leader
from scenarios.report.contents import Topic
from scenarios.report.plots import Axis, Figure, Heat, Line, Lines
from scenarios.report.wording import file_name, percent

MOST_CLASSES = 40
"""Classes up to which the whole confusion matrix is shown."""
WORST_CLASSES = 25
"""Classes that are shown of more: those that are recognised worst."""
MOST_WRITTEN = 25
"""Classes up to which the share stands in each field."""


def quality_topic(analysis: Analysis, condition: Condition, looks: Looks, part: str) -> Topic | None:
    """Return confusion matrices of the leader and the baseline, and the reliability diagram of all."""
    figures = [_confusion(analysis, found, part) for found in _of_interest(analysis, condition)]
    calibrations = [found for found in condition.calibrations if any(entry.count for entry in found.bins)]
    if calibrations:
        figures.append(_reliability(calibrations, looks, part))
    return Topic("Mistakes and confidence", figures=tuple(figures)) if figures else None


def _of_interest(analysis: Analysis, condition: Condition) -> list[Confusion]:
    best = leader(condition, analysis.metric.higher_is_better)
    wanted = [best.contender] if best is not None else []
    wanted.append(analysis.baseline)
    by_name = {found.contender: found for found in condition.confusions}
    return [by_name[name] for name in dict.fromkeys(wanted) if name in by_name]


def _confusion(analysis: Analysis, found: Confusion, part: str) -> Figure:
    counts = np.asarray(found.counts, dtype=np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    names = [*analysis.label_names, *map(str, range(len(analysis.label_names), len(counts)))]
    shown = np.arange(len(counts))
    caption = "Rows: the true class; columns: the answer; each row sums to 100 %."
    if len(counts) > MOST_CLASSES:
        recall = np.where(totals[:, 0] > 0, np.diag(counts) / np.maximum(totals[:, 0], 1), np.inf)
        shown = np.sort(np.argsort(recall, kind="stable")[:WORST_CLASSES])
        caption = f"The {len(shown)} of {len(counts)} classes that are recognised worst; the others are left out."
    labels = tuple(names[place] for place in shown)
    return Figure(
        key=f"confusion-{file_name(found.contender, 40)}{part}",
        title=f"What {found.title} takes for what",
        caption=f"{caption} Central test part, all seeds together.",
        alternative=f"Confusion matrix of {found.title}. {_worst(shares, names)}",
        plot=Heat(
            labels,
            labels,
            shares[np.ix_(shown, shown)],
            label="share of the true class",
            row_label="true class",
            column_label="answer",
            percent=True,
            written=len(shown) <= MOST_WRITTEN,
        ),
        wide=len(shown) > 12,
    )


def _worst(shares: NDArray[np.float64], names: list[str], limit: int = 5) -> str:
    """Say the commonest mistakes."""
    wrong = np.where(np.isfinite(shares), shares, 0.0).copy()
    np.fill_diagonal(wrong, 0.0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    places = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place] > 0]
    if not places:
        return "It makes no mistake."
    said = [f"{names[row]} for {names[column]} in {percent(float(wrong[row, column]))}" for row, column in places]
    return "Its commonest mistakes, true class for answer: " + ", ".join(said) + "."


def _reliability(calibrations: list[Calibration], looks: Looks, part: str) -> Figure:
    by_name = {found.contender: found for found in calibrations}
    lines = tuple(_reliability_line(by_name[name], looks) for name in looks.ordered(by_name))
    errors = [f"{found.title} {percent(found.error.mean, 1)}" for found in calibrations[:12]]
    return Figure(
        key=f"calibration{part}",
        title="Can its confidence be trusted?",
        caption=(
            "On the dotted line, answers given with 80 % confidence are right 80 % of the time; below it a head is "
            "overconfident. Central test part, all seeds together."
        ),
        alternative="Reliability diagram. Expected calibration errors: " + ", ".join(errors) + ".",
        plot=Lines(
            Axis("confidence", percent=True), Axis("share of right answers", percent=True), lines, diagonal=True
        ),
    )


def _reliability_line(found: Calibration, looks: Looks) -> Line:
    bins = [entry for entry in found.bins if entry.confidence is not None and entry.accuracy is not None]
    style = looks.styles[found.contender]
    return Line(
        found.title,
        [entry.confidence for entry in bins if entry.confidence is not None],
        [entry.accuracy for entry in bins if entry.accuracy is not None],
        style=style,
        marks=style is not None,
    )
