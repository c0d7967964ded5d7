"""A csv table of image paths, with labels, several labels or real targets, and optional columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fedgraft.data.image_files import readable
from fedgraft.data.inspected import FileState
from fedgraft.data.labels import classes, label_names
from fedgraft.data.notes import counted
from fedgraft.data.samples import Names, Samples, Targets
from fedgraft.data.settings import CsvSettings
from fedgraft.data.sources.csv_table import CsvTable, read_csv
from fedgraft.errors import DataError


def load(settings: CsvSettings, seed: int) -> Samples:
    """Return the images of a table, in its order. `seed` is not used.

    Raises:
        DataError: the file, a column or every image is missing, or a value makes no sense for the task.
    """
    path = Path(settings.path).expanduser()
    table = read_csv(path)
    source = f"csv {path}"
    images = table.filled(settings.path_column, "path_column")
    files, found, notes = _present(path, images)
    good, inputs, unreadable = readable(path.parent, files, source)
    rows = np.asarray(found)[good].tolist()
    targets, names = _targets(settings, table)

    def column(name: str | None, setting: str) -> Names | None:
        return None if name is None else np.array(table.filled(name, setting))[rows]

    ids = column(settings.id_column, "id_column")
    split = column(settings.split_column, "split_column")
    return Samples(
        inputs=inputs,
        targets=targets[rows],
        task=settings.task,
        label_names=names,
        sample_ids=np.array(images)[rows] if ids is None else ids,
        natural_client=column(settings.client_column, "client_column"),
        group=column(settings.group_column, "group_column"),
        is_test=None if split is None else np.char.lower(split) == "test",
        notes=(*notes, *unreadable),
    )


def _present(path: Path, images: Sequence[str]) -> tuple[list[FileState], list[int], list[str]]:
    """Return the files that are there, the rows that name them, and a note about the others."""
    files, rows, missing = [], [], []
    for row, name in enumerate(images):
        try:
            state = (path.parent / name).stat()
        except (OSError, ValueError):
            missing.append(name)
            continue
        files.append(FileState(name, state.st_size, state.st_mtime_ns))
        rows.append(row)
    if not files:
        raise DataError(
            f"csv {path}: none of the {len(images)} images exists (first: {images[0]}); paths are taken from the "
            f"csv's own folder, {path.parent}"
        )
    return files, rows, counted(missing, "missing image left out", "missing images left out")


def _targets(settings: CsvSettings, table: CsvTable) -> tuple[Targets, tuple[str, ...]]:
    """Return the targets of all rows, and the names of the head's outputs."""
    builders: dict[str, Callable[[CsvSettings, CsvTable], tuple[Targets, tuple[str, ...]]]] = {
        "classes": _classes,
        "labels": _several_labels,
        "real": _real,
    }
    return builders[settings.task](settings, table)


def _classes(settings: CsvSettings, table: CsvTable) -> tuple[Targets, tuple[str, ...]]:
    labels = table.filled(settings.label_column, "label_column")
    names = label_names(labels, settings.labels, f"csv {table.path}")
    return classes(labels, names), names


def _several_labels(settings: CsvSettings, table: CsvTable) -> tuple[Targets, tuple[str, ...]]:
    """Return `(N, L)` zeros and ones; an empty cell is a sample with none of the labels."""
    cells = table.column(settings.label_column, "label_column")
    sets = [{part.strip() for part in cell.split(settings.separator) if part.strip()} for cell in cells]
    names = label_names(set().union(*sets), settings.labels, f"csv {table.path}")
    if not names:
        raise DataError(f"csv {table.path}: column '{settings.label_column}' is empty in every row")
    return np.array([[name in found for name in names] for found in sets], dtype=np.uint8), names


def _real(settings: CsvSettings, table: CsvTable) -> tuple[Targets, tuple[str, ...]]:
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
