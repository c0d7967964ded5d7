"""The tables of the page."""

from __future__ import annotations

from collections.abc import Callable

from scenarios.comparison.estimates import Estimate
from scenarios.comparison.findings import Analysis, Condition, Metric, Row
from scenarios.comparison.titles import condition_title, metric_of
from scenarios.report import contents
from scenarios.report.contenders import Looks, best_first, leader
from scenarios.report.contents import Cell, Column, Order, Table
from scenarios.report.wording import (
    NOTHING,
    change,
    count,
    duration,
    margin,
    p_value,
    score,
    sentence_case,
    share,
    size,
)

HOW_TO_SORT = "A heading sorts by its column"

PARTS = (
    "Central: on the central test part; the others on the clients' validation parts: of the global head, of the "
    "clients' own heads, or of the head in use, which is a client's own where it has one"
)
"""What the short headings of metrics mean."""


def _best_first(metric: Metric) -> Order:
    return "descending" if metric.higher_is_better else "ascending"


def results_table(analysis: Analysis, condition: Condition, looks: Looks) -> Table:
    """Return who reached what under one condition, the best first, those without a result last."""
    metric, several = analysis.metric, len(analysis.contenders) > 1
    best_order = _best_first(metric)
    columns = [Column("contender", "text", "ascending"), Column(metric.heading, first=best_order, sorted=best_order)]
    if several:
        baseline = analysis.contenders[analysis.baseline]
        unit = ", points" if metric.in_points else ""
        columns += [
            Column(f"to {baseline}{unit}", first=best_order),
            Column("p (Holm)", first="ascending"),
            Column("chance of best"),
        ]
    if analysis.target is not None:
        goal = score(analysis.target, metric)
        columns += [Column(f"{what} to {goal}", first="ascending") for what in ("rounds", "traffic", "time")]
    if several and condition.equal_bytes:
        columns.append(Column(f"at {size(condition.equal_bytes)}", first=best_order))
    columns += [Column("traffic", first="ascending"), Column("time", first="ascending")]
    ranked = best_first(condition, metric.higher_is_better)
    rest = [row for row in condition.rows if row.value is None]
    rows = tuple(_row(analysis, condition, row, looks) for row in (*ranked, *rest))
    about = f"{sentence_case(metric.title)}, mean and 95 % interval"
    return Table("Results", tuple(columns), rows, f"{about}. {HOW_TO_SORT}")


def _row(analysis: Analysis, condition: Condition, row: Row, looks: Looks) -> contents.Row:
    metric, several = analysis.metric, len(analysis.contenders) > 1
    best = leader(condition, metric.higher_is_better)
    notes = ["baseline"] if several and row.contender == analysis.baseline else []
    if row.num_finished < row.num_planned:
        notes.append(f"{row.num_finished} of {row.num_planned} runs")
    unjudged = row.value is None and row.own_heads
    if unjudged:
        notes.append("own heads")
    cells = [Cell(row.title, note=", ".join(notes))]
    cells.append(_estimate(row.value, metric, "best" if several and best is row else ""))
    if several:
        cells += _compared(row, metric)
    if analysis.target is not None:
        cells += _to_target(row)
    if several and condition.equal_bytes:
        cells.append(_estimate(row.at_equal_bytes, metric))
    cells.append(_amount(row.resources.bytes, size))
    cells.append(_amount(row.resources.seconds, duration))
    return contents.Row(tuple(cells), looks.styles[row.contender], failed=row.value is None and not unjudged)


def _estimate(found: Estimate | None, metric: Metric, look: str = "") -> Cell:
    return Cell(NOTHING) if found is None else Cell(score(found.mean, metric), found.mean, margin(found, metric), look)


def _amount(found: Estimate | None, written: Callable[[float], str]) -> Cell:
    return Cell(NOTHING) if found is None else Cell(written(found.mean), found.mean)


def _compared(row: Row, metric: Metric) -> list[Cell]:
    found = row.difference
    if found is None:
        cells = [Cell(NOTHING), Cell(NOTHING)]
    else:
        sure = found.adjusted_p is not None and found.adjusted_p < 0.05
        better = (found.estimate.mean > 0) == metric.higher_is_better
        look = ("gain" if better else "harm") if sure else ""
        p = found.adjusted_p
        cells = [
            Cell(change(found.estimate.mean, metric), found.estimate.mean, margin(found.estimate, metric), look),
            Cell(NOTHING) if p is None else Cell(p_value(p), p),
        ]
    chance = row.best_probability
    return [*cells, Cell(NOTHING) if chance is None else Cell(share(chance), chance)]


def _to_target(row: Row) -> list[Cell]:
    found = row.to_target
    if found is None or not found.reached:
        return [Cell("never" if found is not None else NOTHING)] * 3
    note = f"{found.reached} of {count(found.num_seeds, 'seed')}" if found.reached < found.num_seeds else ""
    rounds = found.rounds
    first = Cell(NOTHING) if rounds is None else Cell(f"{rounds.mean:.3g}", rounds.mean, note)
    return [first, _amount(found.bytes, size), _amount(found.seconds, duration)]


def metrics_table(analysis: Analysis, condition: Condition, looks: Looks) -> Table | None:
    """Return all other metrics that the runs ended with; None if there is only the deciding one."""
    names = [name for name in analysis.metric_facts if name != analysis.metric.name]
    names = [name for name in names if any(name in row.metrics for row in condition.rows)]
    if not names:
        return None
    facts = [analysis.metric_facts[name] for name in names]
    bests = {name: _best_of(condition, analysis.metric_facts[name]) for name in names}
    columns = [Column("contender", "text", "ascending")]
    columns += [Column(fact.heading, first=_best_first(fact)) for fact in facts]
    rows = []
    unjudged = [row for row in condition.rows if row.value is None and row.metrics]  # own heads, judged elsewhere
    for row in (*best_first(condition, analysis.metric.higher_is_better), *unjudged):
        cells = [Cell(row.title)]
        for fact in facts:
            look = "best" if bests[fact.name] == row.contender and len(condition.rows) > 1 else ""
            cells.append(_estimate(row.metrics.get(fact.name), fact, look))
        rows.append(contents.Row(tuple(cells), looks.styles[row.contender]))
    return Table("All metrics", tuple(columns), tuple(rows), f"Mean and 95 % interval; the best in bold. {PARTS}")


def _best_of(condition: Condition, metric: Metric) -> str | None:
    sign = 1 if metric.higher_is_better else -1
    found = {
        row.contender: sign * row.metrics[metric.name].mean for row in condition.rows if metric.name in row.metrics
    }
    return max(found, key=lambda name: found[name]) if found else None


def overview_table(analysis: Analysis, looks: Looks) -> Table:
    """Return contenders by conditions."""
    metric = analysis.metric
    order = _best_first(metric)
    columns = [Column("contender", "text", "ascending")]
    columns += [Column(condition.title, first=order) for condition in analysis.conditions]
    leaders = [leader(condition, metric.higher_is_better) for condition in analysis.conditions]
    rows = []
    for name, title in analysis.contenders.items():
        of_all = [row for condition in analysis.conditions for row in condition.rows if row.contender == name]
        notes = ["baseline"] if name == analysis.baseline else []
        notes += ["own heads"] if all(row.own_heads and row.value is None for row in of_all) else []
        cells = [Cell(title, note=", ".join(notes))]
        for condition, best in zip(analysis.conditions, leaders, strict=True):
            found = next((row for row in condition.rows if row.contender == name), None)
            look = "best" if best is not None and best.contender == name else ""
            cells.append(_estimate(found.value if found else None, metric, look))
        rows.append(contents.Row(tuple(cells), looks.styles[name]))
    note = f"Mean and 95 % interval; the best of each column in bold. {HOW_TO_SORT}"
    return Table(f"{sentence_case(metric.title)} by condition", tuple(columns), tuple(rows), note)


def tuning_table(analysis: Analysis, condition: Condition, looks: Looks) -> Table:
    """Return what each contender was given by tuning, by which score, and what the search spent."""
    first = next((one.metric for one in condition.tuning if one.metric is not None), None)
    metric = analysis.metric if first is None else metric_of(first, analysis.task)
    columns = (
        Column("contender", "text", "ascending"),
        Column("chosen", "text", "ascending"),
        Column("validation score", first=_best_first(metric)),
        Column("settings tried"),
        Column("rounds spent"),
    )
    rows = []
    for one in condition.tuning:
        chosen = condition_title(one.settings) if one.error is None else f"failed: {one.error}"
        found = Cell(NOTHING) if one.score is None else Cell(score(one.score, metric), one.score)
        counts = (Cell(f"{number:,}", number) for number in (one.num_settings, one.num_rounds))
        title = analysis.contenders.get(one.contender, one.contender)
        cells = (Cell(title), Cell(chosen), found, *counts)
        rows.append(contents.Row(cells, looks.styles.get(one.contender), failed=one.error is not None))
    note = f"Searched with seed {condition.tuning[0].seed}, by {metric.title}; the central test part had no say"
    return Table("What was tuned", columns, tuple(rows), note)
