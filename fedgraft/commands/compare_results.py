"""What `fedgraft compare` prints at its end: a table of contenders for each condition, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from fedgraft.commands.compare_display import size

if TYPE_CHECKING:
    from scenarios.comparison.estimates import Difference, Estimate
    from scenarios.comparison.findings import Analysis, Condition, Metric, Resources, Row

LEVEL = 0.05
"""An adjusted p below it is shown as a difference."""


def tables(analysis: Analysis) -> Iterator[Table]:
    """Yield a table for each condition: the deciding metric, the difference to the baseline, and what it cost."""
    for condition in analysis.conditions:
        yield _table(analysis, condition)


def _table(analysis: Analysis, condition: Condition) -> Table:
    metric = analysis.metric
    where = f"{condition.title}: " if condition.title else ""
    title = f"{where}{metric.title}, {_seeds(len(analysis.seeds))}"
    table = Table(title=escape(title[:1].upper() + title[1:]), title_justify="left")
    table.add_column("contender")
    unit = ", points" if metric.in_points else ""
    columns = ["mean" + (", %" if metric.in_points else ""), f"to {escape(analysis.baseline)}{unit}", "best?"]
    columns += [_target_column(analysis)] if analysis.target is not None else []
    for column in (*columns, "seconds (forecast)", "bytes (forecast)", "memory"):
        table.add_column(column, justify="right")
    for row in condition.rows:
        table.add_row(*_cells(row, metric, analysis))
    return table


def _seeds(number: int) -> str:
    return f"{number} seed{'' if number == 1 else 's'}"


def _target_column(analysis: Analysis) -> str:
    return f"rounds to {analysis.target:g}"


def _cells(row: Row, metric: Metric, analysis: Analysis) -> Iterator[str]:
    mark = " (baseline)" if row.contender == analysis.baseline else ""
    missing = row.num_planned - row.num_finished
    lost = f" [red]{missing} of {row.num_planned} runs missing[/]" if missing else ""
    yield f"{escape(row.contender)}{mark}{lost}"
    nothing = "own heads, not judged" if row.own_heads else ""
    yield nothing if row.value is None else estimate_text(row.value, metric)
    yield "" if row.difference is None else _difference(row.difference, metric)
    yield "" if row.best_probability is None else f"{100 * row.best_probability:.0f} %"
    if analysis.target is not None:
        yield _to_target(row)
    yield from _costs(row.resources)


def estimate_text(value: Estimate, metric: Metric, sign: bool = False) -> str:
    """Return a mean with its interval: `92.1 ± 0.6`, in per cent or points where the metric is a share."""
    factor, digits = (100.0, 1) if metric.in_points else (1.0, 4)
    plus = "+" if sign else ""
    mean = f"{factor * value.mean:{plus}.{digits}f}"
    return mean if value.half_width is None else f"{mean} ± {factor * value.half_width:.{digits}f}"


def _difference(difference: Difference, metric: Metric) -> str:
    text = estimate_text(difference.estimate, metric, sign=True)
    p = difference.adjusted_p
    if p is None:
        return text
    sure = p < LEVEL
    shown = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return f"[bold]{text}[/], {shown}" if sure else f"{text}, {shown}"


def _to_target(row: Row) -> str:
    found = row.to_target
    if found is None or found.rounds is None:
        return "never"
    rest = "" if found.reached == found.num_seeds else f" ({found.reached} of {found.num_seeds})"
    return f"{found.rounds.mean:.1f}{rest}"


def _costs(resources: Resources) -> Iterator[str]:
    forecast = resources.forecast
    seconds = None if forecast is None else forecast.seconds
    sent = None if forecast is None else forecast.bytes
    yield "" if resources.seconds is None else f"{resources.seconds.mean:.1f}" + _beside(seconds, "{:.1f}")
    if resources.bytes is None:
        yield ""
    else:
        yield size(resources.bytes.mean) + ("" if sent is None else f" ({size(sent)})")
    yield "" if resources.memory_bytes is None else size(resources.memory_bytes.mean)


def _beside(value: float | None, form: str) -> str:
    return "" if value is None else f" ({form.format(value)})"


def verdict_lines(analysis: Analysis) -> Iterator[str]:
    """Yield the verdict: its headline, then what follows from it, over all conditions and for each."""
    if analysis.verdict.headline:
        yield f"[bold]{escape(analysis.verdict.headline)}[/]"
    for sentence in analysis.verdict.sentences:
        yield escape(sentence)
    for condition in analysis.conditions:
        where = f"{condition.title}: " if condition.title else ""
        for note in condition.notes:
            yield f"[yellow]note:[/] {escape(where + note)}"
    for note in analysis.notes:
        yield f"[yellow]note:[/] {escape(note)}"
