"""Lifelong learning: which task's rounds a run is in, and what a head still knows of earlier tasks.

With `R[i, j]` the accuracy on the classes of task `j` after task `i` has been trained, of `T` tasks:

- average accuracy: `1 / T sum_j R[T, j]`;
- forgetting (Chaudhry, Dokania, Ajanthan and Torr, "Riemannian walk for incremental learning", ECCV 2018,
  arXiv:1801.10112, eq. 3): `1 / (T - 1) sum_{j < T} max_{j <= i < T} R[i, j] - R[T, j]`;
- backward transfer (Lopez-Paz and Ranzato, "Gradient episodic memory for continual learning", NeurIPS 2017,
  arXiv:1706.08840, eq. 3): `1 / (T - 1) sum_{j < T} R[T, j] - R[j, j]`; below 0 it is forgetting.

All answers are among the classes of all tasks: no head is told which task a sample is of.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.tasks import Tasks, resolve_tasks
from fedgraft.files import write_text
from fedgraft.metrics import Sums, metric_rows
from fedgraft.progress import report

if TYPE_CHECKING:
    from server.course import Course

TASKS_FILE = "tasks.csv"
PARTS = ("central", "validation")
"""Where accuracy on a task's classes is measured: on the central test part, on the clients' validation parts."""


@dataclass(frozen=True)
class Curriculum:
    """The tasks of a run.

    Attributes:
        tasks: the classes of each.
        rounds: of each task.
    """

    tasks: Tasks
    rounds: int

    def task_of(self, round_number: int) -> int:
        """Return the task (from 1) that a round belongs to; round 0, before training, belongs to the first."""
        return max(round_number - 1, 0) // max(self.rounds, 1) + 1

    def begins_with(self, round_number: int) -> bool:
        """Return whether a round is a later task's first."""
        return round_number > self.rounds and self.task_of(round_number) > self.task_of(round_number - 1)

    def ends_after(self, round_number: int) -> bool:
        """Return whether a round is its task's last."""
        return round_number > 0 and round_number % self.rounds == 0


def curriculum_of(course: Course) -> Curriculum | None:
    """Return the tasks of a run; None where all classes are there from the start."""
    part, roster = course.part, course.roster
    tasks = resolve_tasks(part.data, roster.task, roster.label_names)
    return Curriculum(tasks, part.server.rounds // len(tasks)) if tasks else None


def take_task(course: Course, round_number: int) -> None:
    """Let everybody have the samples that there are in a round."""
    curriculum = course.adapter.curriculum
    if curriculum is None:
        return
    number = curriculum.task_of(round_number)
    if number == course.adapter.task_number:
        return
    course.adapter.take_task(number, course.roster.at_task(number))
    if course.central is not None:
        course.central.take_task(curriculum.tasks, number)
    names = ", ".join(course.roster.label_names[label] for label in curriculum.tasks[number - 1])
    report("note", text=f"task {number} of {len(curriculum.tasks)}: the classes {names}")


def write_task_row(course: Course) -> None:
    """Write how right the head is on each task so far, after a task's last round."""
    curriculum, record = course.adapter.curriculum, course.adapter.record
    if curriculum is None or not curriculum.ends_after(course.round_number):
        return
    number = curriculum.task_of(course.round_number)
    values: dict[str, Any] = {"task": number}
    sums = {"central": course.central_sums, "validation": None if record is None else record.metrics}
    for part in PARTS:
        scores = task_scores(sums[part], curriculum.tasks[:number])
        values |= {f"{part}_task_{task}": score for task, score in enumerate(scores, 1) if score is not None}
    course.directory.row(course.round_number, "tasks", values)


def task_scores(sums: Sums | None, tasks: Tasks) -> list[float | None]:
    """Return the share of right answers on each task's classes, from a confusion matrix of true by predicted class.

    None: there are no samples of a task.
    """
    if not sums or "confusion" not in sums:
        return [None] * len(tasks)
    confusion: NDArray[np.float64] = np.asarray(sums["confusion"], dtype=np.float64)
    counts = [confusion[task].sum() for task in tasks]
    right = [confusion[task, task].sum() for task in tasks]
    return [float(hit / count) if count else None for hit, count in zip(right, counts, strict=True)]


def lifelong_summary(course: Course) -> dict[str, Any]:
    """Return the accuracy after each task on each, and what it comes to; nothing without tasks."""
    curriculum = course.adapter.curriculum
    if curriculum is None:
        return {}
    rows = metric_rows(course.directory.path)
    found = {row["task"]: row for row in rows if row["group"] == "tasks"}
    numbers = range(1, len(curriculum.tasks) + 1)
    names = course.roster.label_names
    summary: dict[str, Any] = {
        "classes": [[names[label] for label in task] for task in curriculum.tasks],
        "rounds_per_task": curriculum.rounds,
    }
    for part in PARTS:
        matrix = [[found.get(i, {}).get(f"{part}_task_{j}") for j in numbers] for i in numbers]
        if matrix[-1][-1] is not None:
            summary[part] = {"accuracy": matrix, **measures(matrix)}
    return {"tasks": summary}


def measures(matrix: Sequence[Sequence[float | None]]) -> dict[str, float]:
    """Return average accuracy, forgetting and backward transfer; tasks without samples are left out.

    Args:
        matrix: `R[i][j]`, accuracy on task `j` after task `i`; None above the diagonal, and where there are no samples.
    """
    last = len(matrix) - 1
    final = [value for value in matrix[last] if value is not None]
    values = {"average_accuracy": float(np.mean(final))}
    forgot, moved = [], []
    for j in range(last):
        before = [value for i in range(j, last) if (value := matrix[i][j]) is not None]
        learned, now = matrix[j][j], matrix[last][j]
        if before and now is not None:
            forgot.append(max(before) - now)
        if learned is not None and now is not None:
            moved.append(now - learned)
    if forgot:
        values["forgetting"] = float(np.mean(forgot))
    if moved:
        values["backward_transfer"] = float(np.mean(moved))
    return values


def write_tasks(course: Course, summary: Mapping[str, Any]) -> None:
    """Write the accuracies as a table: one row a part, a task that was trained, and a task so far."""
    tasks = summary.get("tasks")
    if tasks is None:
        return
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("part", "after_task", "on_task", "classes", "accuracy"))
    for part in PARTS:
        for i, row in enumerate(tasks.get(part, {}).get("accuracy", ()), 1):
            for j, value in enumerate(row[:i], 1):
                shown = "" if value is None else f"{value:.9g}"
                writer.writerow((part, i, j, " ".join(tasks["classes"][j - 1]), shown))
    write_text(course.directory.path / TASKS_FILE, buffer.getvalue())


def task_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the accuracies and what they come to, as lines for people; none without tasks."""
    tasks = summary.get("tasks")
    if tasks is None:
        return []
    part = next((name for name in PARTS if name in tasks), None)
    if part is None:
        return []
    found, number = tasks[part], len(tasks["classes"])
    where = {"central": "central test", "validation": "clients' validation parts"}[part]
    lines = [f"accuracy on each task's classes ({where}):"]
    lines.append("  after".ljust(12) + "".join(f"task {j}".rjust(9) for j in range(1, number + 1)))
    for i, row in enumerate(found["accuracy"], 1):
        cells = ("" if value is None else f"{value:.4f}" for value in row)
        lines.append(f"  task {i}".ljust(12) + "".join(cell.rjust(9) for cell in cells))
    titles = {"average_accuracy": "average", "forgetting": "forgetting", "backward_transfer": "backward transfer"}
    said = [f"{title} {found[name]:.4f}" for name, title in titles.items() if name in found]
    return [*lines, f"  {', '.join(said)}"]
