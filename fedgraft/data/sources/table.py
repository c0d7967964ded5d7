"""A csv table of image paths, with labels, several labels or real targets, and optional columns."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedgraft.data.image_files import FileState, readable
from fedgraft.data.labels import classes, label_names
from fedgraft.data.notes import counted
from fedgraft.data.samples import Names, Samples, Targets
from fedgraft.data.settings import CsvSettings
from fedgraft.errors import DataError, listed, nearest


@dataclass(frozen=True)
class _Table:
    """The rows of a csv by column, and the line of the file that each ends at (from 1; the header is 1)."""

    path: Path
    columns: dict[str, list[str]]
    lines: list[int]

    def column(self, name: str, setting: str) -> list[str]:
        """Return a column, stripped of blanks around the values."""
        if name not in self.columns:
            raise DataError(
                f"csv {self.path} has no column '{name}' ({setting}); it has "
                f"{listed(self.columns)}{nearest(name, self.columns)}"
            )
        return self.columns[name]

    def filled(self, name: str, setting: str) -> list[str]:
        """Return a column in which every row must say something."""
        values = self.column(name, setting)
        self.refuse([not value for value in values], f"column '{name}' is empty")
        return values

    def refuse(self, rows: Sequence[bool], fault: str) -> None:
        """Raise if any row has the fault, naming the first lines."""
        lines = [str(line) for line, bad in zip(self.lines, rows, strict=True) if bad]
        if lines:
            raise DataError(
                f"csv {self.path}: {fault} in {len(lines)} of {len(self.lines)} rows (line {listed(lines, 5)})"
            )


def _read(path: Path) -> _Table:
    if not path.is_file():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        what = "is a folder, not a csv file" if path.is_dir() else "does not exist"
        raise DataError(f"the csv file {path} {what}{nearest(path.name, siblings)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise DataError(f"the csv file {path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"can't read the csv file {path}: {error}") from error
    if not header or not rows:
        missing = "rows below the header" if header else "header line"
        raise DataError(f"the csv file {path} has no {missing}")
    if len(set(header)) < len(header):
        raise DataError(f"csv {path}: a column name stands twice in the header: {listed(header)}")
    columns = {name: [row[i].strip() if i < len(row) else "" for _, row in rows] for i, name in enumerate(header)}
    table = _Table(path, columns, [line for line, _ in rows])
    table.refuse([len(row) != len(header) for _, row in rows], f"not {len(header)} values, as the header has,")
    return table


def load(settings: CsvSettings, seed: int) -> Samples:
    """Return the images of a table, in its order. `seed` is not used.

    Raises:
        DataError: the file, a column or every image is missing, or a value makes no sense for the task.
    """
    path = Path(settings.path).expanduser()
    table = _read(path)
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


def _targets(settings: CsvSettings, table: _Table) -> tuple[Targets, tuple[str, ...]]:
    """Return the targets of all rows, and the names of the head's outputs."""
    builders: dict[str, Callable[[CsvSettings, _Table], tuple[Targets, tuple[str, ...]]]] = {
        "classes": _classes,
        "labels": _several_labels,
        "real": _real,
    }
    return builders[settings.task](settings, table)


def _classes(settings: CsvSettings, table: _Table) -> tuple[Targets, tuple[str, ...]]:
    labels = table.filled(settings.label_column, "label_column")
    names = label_names(labels, settings.labels, f"csv {table.path}")
    return classes(labels, names), names


def _several_labels(settings: CsvSettings, table: _Table) -> tuple[Targets, tuple[str, ...]]:
    """Return `(N, L)` zeros and ones; an empty cell is a sample with none of the labels."""
    cells = table.column(settings.label_column, "label_column")
    sets = [{part.strip() for part in cell.split(settings.separator) if part.strip()} for cell in cells]
    names = label_names(set().union(*sets), settings.labels, f"csv {table.path}")
    if not names:
        raise DataError(f"csv {table.path}: column '{settings.label_column}' is empty in every row")
    return np.array([[name in found for name in names] for found in sets], dtype=np.uint8), names


def _real(settings: CsvSettings, table: _Table) -> tuple[Targets, tuple[str, ...]]:
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
