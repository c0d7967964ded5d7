"""What every csv of samples has: targets, and optional columns of owner, group, id and part."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.labels import classes, label_names
from fedgraft.data.samples import Names, Targets
from fedgraft.data.settings import TableSettings
from fedgraft.data.sources.csv_table import CsvTable
from fedgraft.errors import DataError, listed


@dataclass(frozen=True)
class Optional:
    """Columns that a table may have, `(num_rows,)` each; None where the settings name none."""

    client: Names | None
    group: Names | None
    ids: Names | None
    is_test: NDArray[np.bool_] | None


def optional_columns(settings: TableSettings, table: CsvTable) -> Optional:
    """Return the optional columns of all rows.

    Raises:
        DataError: a column is not there or not filled, or an owner does not fit `client_pattern`.
    """

    def column(name: str | None, setting: str) -> Names | None:
        return None if name is None else np.array(table.filled(name, setting))

    split = column(settings.split_column, "split_column")
    owners = None if settings.client_column is None else table.filled(settings.client_column, "client_column")
    if owners is not None and settings.client_pattern is not None:
        owners = _found(settings.client_pattern, owners, table, str(settings.client_column))
    return Optional(
        client=None if owners is None else np.array(owners),
        group=column(settings.group_column, "group_column"),
        ids=column(settings.id_column, "id_column"),
        is_test=None if split is None else np.char.lower(split) == "test",
    )


def targets_of(settings: TableSettings, table: CsvTable) -> tuple[Targets, tuple[str, ...]]:
    """Return the targets of all rows, and the names of the head's outputs.

    Raises:
        DataError: the column is not there, or a value makes no sense for the task.
    """
    builders: dict[str, Callable[[TableSettings, CsvTable], tuple[Targets, tuple[str, ...]]]] = {
        "classes": _classes,
        "labels": _several_labels,
        "real": _real,
    }
    return builders[settings.task](settings, table)


def mixed_labels(names: Sequence[str]) -> list[str]:
    """Return a note about labels of which some are numbers and others words, which may mean the same."""
    numbers = [name for name in names if name.lstrip("-").isdecimal()]
    words = [name for name in names if name not in numbers]
    if not numbers or not words:
        return []
    return [f"labels are numbers ({listed(numbers, 5)}) and words ({listed(words, 5)}): each is a class of its own"]


def _found(pattern: str, values: Sequence[str], table: CsvTable, column: str) -> list[str]:
    """Return what the first group of a pattern, or the whole of it, finds at the beginning of each value."""
    matches = [re.match(pattern, value) for value in values]
    told = f"client_pattern {pattern!r} does not fit column '{column}'"
    table.refuse([match is None or not match.group(match.re.groups and 1) for match in matches], told)
    return [match.group(match.re.groups and 1) for match in matches if match is not None]


def _classes(settings: TableSettings, table: CsvTable) -> tuple[Targets, tuple[str, ...]]:
    labels = table.column(settings.label_column, "label_column")
    names = label_names(filter(None, labels), settings.labels, f"csv {table.path}")
    return classes(labels, names, unlabelled=""), names


def _several_labels(settings: TableSettings, table: CsvTable) -> tuple[Targets, tuple[str, ...]]:
    """Return `(N, L)` zeros and ones; an empty cell is a sample with none of the labels."""
    cells = table.column(settings.label_column, "label_column")
    sets = [{part.strip() for part in cell.split(settings.separator) if part.strip()} for cell in cells]
    names = label_names(set().union(*sets), settings.labels, f"csv {table.path}")
    if not names:
        raise DataError(f"csv {table.path}: column '{settings.label_column}' is empty in every row")
    return np.array([[name in found for name in names] for found in sets], dtype=np.uint8), names


def _real(settings: TableSettings, table: CsvTable) -> tuple[Targets, tuple[str, ...]]:
    """Return `(N,)` numbers, or `(N, T)` where each cell holds several."""
    name = settings.label_column
    cells = [cell.split(settings.separator) for cell in table.filled(name, "label_column")]
    table.refuse([not all(_is_number(part) for part in cell) for cell in cells], f"column '{name}' is no number")
    width = len(cells[0])
    table.refuse([len(cell) != width for cell in cells], f"column '{name}' does not hold {width} numbers")
    numbers = np.array([[float(part) for part in cell] for cell in cells], dtype=np.float32)
    if width == 1:
        return numbers[:, 0], (name,)
    return numbers, tuple(f"{name}-{number}" for number in range(width))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
