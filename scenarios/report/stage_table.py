"""The stages of contenders' runs: a table of what each was, cost and reached."""

from __future__ import annotations

from scenarios.comparison.findings import Analysis, Condition, Metric, Staged, StageFound
from scenarios.report.contenders import Looks
from scenarios.report.contents import NO_STYLE, Cell, Column, Order, Row, Table, Topic
from scenarios.report.wording import NOTHING, duration, margin, score, size


def stages_topic(analysis: Analysis, condition: Condition, looks: Looks) -> Topic | None:
    """Return what became of each stage; None where all runs are of one piece."""
    if not condition.staged:
        return None
    text = (
        "These runs are made of stages: each begins with the head, and trained blocks, that the one before it left "
        "behind; clients and strategy begin anew.",
    )
    columns = (
        Column("contender", "text", "ascending"),
        Column("stage", first="ascending", sorted="ascending"),
        Column("strategy", "text", "ascending"),
        Column("rounds", first="ascending"),
        Column("traffic", first="ascending"),
        Column("time", first="ascending"),
        Column(f"{analysis.metric.heading}, at its end", first=_first(analysis.metric)),
    )
    rows = tuple(
        _row(found, number, stage, analysis.metric, looks)
        for found in condition.staged
        for number, stage in enumerate(found.stages, 1)
    )
    return Topic("Stages", text=text, table=Table("What each stage cost and reached", columns, rows))


def _first(metric: Metric) -> Order:
    return "descending" if metric.higher_is_better else "ascending"


def _row(found: Staged, number: int, stage: StageFound, metric: Metric, looks: Looks) -> Row:
    value = stage.value
    reached = Cell(NOTHING) if value is None else Cell(score(value.mean, metric), value.mean, margin(value, metric))
    return Row(
        (
            Cell(found.title),
            Cell(f"{number}. {stage.name}", number),
            Cell(stage.strategy),
            Cell(f"{stage.rounds.mean:.3g}", stage.rounds.mean),
            Cell(size(stage.bytes.mean), stage.bytes.mean),
            Cell(duration(stage.seconds.mean), stage.seconds.mean),
            reached,
        ),
        style=looks.styles.get(found.contender, NO_STYLE),
    )
