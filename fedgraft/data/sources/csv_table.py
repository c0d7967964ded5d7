"""Columns of a csv file by name, as texts; what is wrong is told with lines and columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedgraft.errors import DataError, listed, nearest


@dataclass(frozen=True)
class CsvTable:
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


def read_csv(path: Path) -> CsvTable:
    """Return the columns of a csv file in UTF-8 with a header line.

    Raises:
        DataError: it is missing or unreadable, in another encoding, empty, or its rows have not one value a column.
    """
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
    table = CsvTable(path, columns, [line for line, _ in rows])
    table.refuse([len(row) != len(header) for _, row in rows], f"not {len(header)} values, as the header has,")
    return table
