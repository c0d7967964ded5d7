"""What contenders cost, against what was forecast."""

from __future__ import annotations

from collections.abc import Callable

from scenarios.comparison.estimates import Estimate
from scenarios.comparison.findings import Condition, Row
from scenarios.report import contents
from scenarios.report.contenders import Looks
from scenarios.report.contents import Cell, Column, Table, Topic
from scenarios.report.plots import Axis, Dot, Dots, Figure
from scenarios.report.wording import NOTHING, duration, size

KINDS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("seconds", "time", duration),
    ("bytes", "traffic", size),
    ("memory_bytes", "memory", size),
)
"""Field of `Resources` and of `Forecast`, its name, and how it is written."""

MOST_DOTS = 45


def cost_topic(condition: Condition, looks: Looks, part: str) -> Topic | None:
    """Return the resources of one condition; None where none were measured."""
    rows = [row for row in condition.rows if any(getattr(row.resources, kind) for kind, _, _ in KINDS)]
    kinds = [entry for entry in KINDS if any(getattr(row.resources, entry[0]) for row in rows)]
    if not rows:
        return None
    forecast = {entry[0] for entry in kinds if any(_forecast(row, entry[0]) for row in rows)}
    columns = [Column("contender", "text", "ascending")]
    for kind, name, _ in kinds:
        columns.append(Column(name, first="ascending"))
        if kind in forecast:
            columns.append(Column(f"{name}, forecast", first="ascending"))
    table = Table(
        "Resources of a run",
        tuple(columns),
        tuple(_row(row, kinds, forecast, looks) for row in rows),
        "Means over seeds; time without what other runs had computed for it",
    )
    figure = _against_forecast(rows, looks, part)
    return Topic("Resources", figures=(figure,) if figure is not None else (), table=table)


def _forecast(row: Row, kind: str) -> float | None:
    found = getattr(row.resources.forecast, kind, None)
    return float(found) if found else None


def _row(
    row: Row, kinds: list[tuple[str, str, Callable[[float], str]]], forecast: set[str], looks: Looks
) -> contents.Row:
    cells = [Cell(row.title)]
    for kind, _, written in kinds:
        measured: Estimate | None = getattr(row.resources, kind)
        cells.append(Cell(NOTHING) if measured is None else Cell(written(measured.mean), measured.mean))
        if kind in forecast:
            expected = _forecast(row, kind)
            cells.append(Cell(NOTHING) if expected is None else Cell(written(expected), expected))
    return contents.Row(tuple(cells), looks.styles[row.contender])


def _against_forecast(rows: list[Row], looks: Looks, part: str) -> Figure | None:
    dots = []
    for row in rows:
        for kind, name, _ in KINDS:
            measured: Estimate | None = getattr(row.resources, kind)
            expected = _forecast(row, kind)
            if measured is not None and expected is not None:
                dots.append(Dot(f"{row.title}, {name}", measured.mean / expected, style=looks.styles[row.contender]))
    if not dots:
        return None
    dots = sorted(dots, key=lambda dot: -max(dot.value, 1 / max(dot.value, 1e-9)))[:MOST_DOTS]
    return Figure(
        key=f"forecast{part}",
        title="Measured against forecast",
        caption="1: as forecast; 2: twice as much. The worst forecasts stand on top.",
        alternative="Measured over forecast. " + "; ".join(f"{dot.name}: {dot.value:.2f}" for dot in dots[:12]) + ".",
        plot=Dots(Axis("measured / forecast"), tuple(dots), reference=1.0),
        wide=True,
    )
