"""Lifelong learning: classes that arrive task by task, and what a federation has of them in each.

Class-incremental learning as in van de Ven, Tuytelaars and Tolias, "Three types of incremental learning", Nature
Machine Intelligence 4, 2022: one head for all classes, which is not told what task a sample is of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.settings import ClassName, DataSettings, Task
from fedgraft.errors import DataError, listed

if TYPE_CHECKING:
    from fedgraft.data.federation import Federation

Tasks = tuple[NDArray[np.int64], ...]
"""The classes of each task, by number, ascending."""


def resolve_tasks(settings: DataSettings, kind: Task, label_names: Sequence[str]) -> Tasks:
    """Return the classes of each task; empty where all classes are there from the start.

    Args:
        settings: of the data.
        kind: what the targets are.
        label_names: of the classes.

    Raises:
        DataError: the targets are no classes, or a class is unknown, in two tasks, or in none; says all that is wrong.
    """
    if settings.tasks is None:
        return ()
    if kind != "classes":
        raise DataError(f"data.tasks lists classes, but the targets are {kind!r}; set it to null")
    if isinstance(settings.tasks, int):
        if settings.tasks > len(label_names):
            raise DataError(f"data.tasks: came {settings.tasks} tasks, but there are {len(label_names)} classes")
        return tuple(np.array_split(np.arange(len(label_names)), settings.tasks))
    numbers = [[_number(name, label_names) for name in task] for task in settings.tasks]
    faults = _faults(settings.tasks, numbers, label_names)
    if faults:
        raise DataError(f"data.tasks: {'; '.join(faults)}")
    return tuple(np.sort(np.array(task, dtype=np.int64)) for task in numbers)


def at_task(federation: Federation, tasks: Tasks, number: int) -> Federation:
    """Return what a federation has during a task (from 1); 0: all that it ever has.

    Training parts keep samples of the task's own classes; validation parts and the central test part, which nobody
    trains on, those of all classes that have come so far.
    """
    if number == 0:
        return federation
    now, seen = tasks[number - 1], np.concatenate(tasks[:number])
    targets = federation.samples.targets
    return replace(
        federation,
        train=federation.train.keep(np.isin(targets[federation.train.indices], now)),
        validation=federation.validation.keep(np.isin(targets[federation.validation.indices], seen)),
        test=federation.test[np.isin(targets[federation.test], seen)],
    )


def _number(name: ClassName, label_names: Sequence[str]) -> int | None:
    """Return a class's number; None: there is no such class."""
    if isinstance(name, int):
        return name if name < len(label_names) else None
    return label_names.index(name) if name in label_names else None


def _faults(
    tasks: Sequence[Sequence[ClassName]], numbers: Sequence[Sequence[int | None]], label_names: Sequence[str]
) -> list[str]:
    faults = []
    unknown = [
        name
        for task, found in zip(tasks, numbers, strict=True)
        for name, number in zip(task, found, strict=True)
        if number is None
    ]
    if unknown:
        known = listed(label_names, 20)
        faults.append(f"no class {listed(map(repr, unknown))}; there are the {len(label_names)} classes {known}")
    counts = Counter(number for found in numbers for number in found if number is not None)
    twice = [label_names[number] for number, count in sorted(counts.items()) if count > 1]
    if twice:
        faults.append(f"{listed(twice)} came more than once; put each class into one task")
    left_out = [name for number, name in enumerate(label_names) if number not in counts]
    if left_out and not unknown:
        faults.append(f"{listed(left_out)} came in no task; put each class into one task")
    return faults
