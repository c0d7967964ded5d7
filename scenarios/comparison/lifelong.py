"""What contenders still know of earlier tasks, where classes arrive task by task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scenarios.comparison.estimates import estimate
from scenarios.comparison.findings import Lifelong
from scenarios.comparison.results import Result

PARTS = ("central", "validation")
MEASURES = ("average_accuracy", "forgetting", "backward_transfer")


def lifelong(contender: str, title: str, results: Sequence[Result]) -> Lifelong | None:
    """Return the accuracies on each task after each, as means over seeds; None where there are no tasks.

    On the central test part where all runs have one, else on the clients' validation parts.
    """
    kept = {result.seed: tasks for result in results if (tasks := result.summary.get("tasks"))}
    part = next((part for part in PARTS if kept and all(part in tasks for tasks in kept.values())), None)
    if part is None:
        return None
    tables = [np.array(tasks[part]["accuracy"], dtype=np.float64) for tasks in kept.values()]
    classes = {str(tasks["classes"]) for tasks in kept.values()}
    if len({table.shape for table in tables}) > 1 or len(classes) > 1:
        return None
    mean = np.mean(tables, axis=0)
    values = {
        name: estimate({seed: tasks[part][name] for seed, tasks in kept.items() if name in tasks[part]})
        for name in MEASURES
    }
    return Lifelong(
        contender,
        title,
        part,
        tuple(tuple(task) for task in next(iter(kept.values()))["classes"]),
        tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in mean),
        {name: value for name, value in values.items() if value is not None},
    )
