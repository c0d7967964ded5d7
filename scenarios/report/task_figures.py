"""What contenders still know of earlier tasks: a heat map each, and a table of all."""

from __future__ import annotations

import numpy as np

from scenarios.comparison.findings import Analysis, Condition, Lifelong
from scenarios.report.contenders import Looks, leader
from scenarios.report.contents import NO_STYLE, Cell, Column, Row, Table, Topic
from scenarios.report.plots import Figure, Heat
from scenarios.report.wording import file_name, percent

MOST_MAPS = 6
MOST_WRITTEN = 12
"""Tasks up to which the accuracy stands in each field."""
TITLES = {
    "average_accuracy": "Average accuracy",
    "forgetting": "Forgetting",
    "backward_transfer": "Backward transfer",
}
WHERE = {"central": "Central test part", "validation": "Clients' validation parts"}


def tasks_topic(analysis: Analysis, condition: Condition, looks: Looks, part: str) -> Topic | None:
    """Return heat maps of accuracy after each task, of the leader, the baseline and others; None without tasks."""
    if not condition.lifelong:
        return None
    best = leader(condition, analysis.metric.higher_is_better)
    first = [best.contender] if best is not None else []
    names = list(dict.fromkeys([*first, analysis.baseline, *(found.contender for found in condition.lifelong)]))
    by_name = {found.contender: found for found in condition.lifelong}
    shown = [by_name[name] for name in names if name in by_name][:MOST_MAPS]
    text = (
        "Classes came task by task, and clients trained on the newest only. All answers are among the classes of all "
        "tasks: no head is told which task a sample is of.",
    )
    figures = tuple(_map(found, part) for found in shown)
    return Topic("Tasks one after another", text=text, figures=figures, table=_table(condition, looks))


def _map(found: Lifelong, part: str) -> Figure:
    values = np.array(found.accuracy, dtype=np.float64)
    names = tuple(f"task {number}" for number in range(1, len(values) + 1))
    last = ", ".join(
        f"{name} {percent(value)}" for name, value in zip(names, values[-1], strict=True) if np.isfinite(value)
    )
    learned = ", ".join(
        f"{name} {percent(value)}" for name, value in zip(names, np.diag(values), strict=True) if np.isfinite(value)
    )
    return Figure(
        key=f"tasks-{file_name(found.contender, 40)}{part}",
        title=f"What {found.title} knows after each task",
        caption=f"Rows: after which task; columns: accuracy on each task's classes. {WHERE[found.part]}, mean over "
        f"seeds. {_classes(found)}",
        alternative=f"Accuracy on each task when it was learned: {learned}. After the last one: {last}.",
        plot=Heat(
            tuple(f"after {name}" for name in names),
            names,
            values,
            label="accuracy",
            row_label="trained until",
            column_label="accuracy on",
            percent=True,
            written=len(names) <= MOST_WRITTEN,
        ),
        wide=len(names) > MOST_WRITTEN,
    )


def _classes(found: Lifelong, most: int = 60) -> str:
    """Say which classes each task has, where that is short."""
    if sum(map(len, found.classes)) > most:
        return ""
    said = (f"{number}: {', '.join(task)}" for number, task in enumerate(found.classes, 1))
    return f"Classes of task {'; '.join(said)}."


def _table(condition: Condition, looks: Looks) -> Table:
    rows = []
    for found in sorted(condition.lifelong, key=lambda entry: -entry.measures["average_accuracy"].mean):
        cells = [Cell(found.title)]
        for name in TITLES:
            value = found.measures.get(name)
            cells.append(Cell("") if value is None else Cell(percent(value.mean, 1), value.mean))
        rows.append(Row(tuple(cells), style=looks.styles.get(found.contender, NO_STYLE)))
    return Table(
        "After the last task",
        (
            Column("Contender", "text", "ascending"),
            Column(TITLES["average_accuracy"], sorted="descending"),
            Column(TITLES["forgetting"], first="ascending"),
            Column(TITLES["backward_transfer"]),
        ),
        tuple(rows),
        note="Average accuracy: over tasks. Forgetting: how far accuracy on earlier tasks is below the best that it "
        "was (Chaudhry et al., 2018). Backward transfer: how far it is above what it was when the task was learned "
        "(Lopez-Paz and Ranzato, 2017).",
    )
