"""Columns of a csv file by name, as texts; what is wrong is told with lines and columns."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedgraft.errors import DataError, listed, nearest

LONGEST_FIELD = 2**30
"""Characters of one value, at most; Python's own limit of 131,072 is less than a long document has."""


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

    def rows(self, chosen: Sequence[int]) -> CsvTable:
        """Return a table of some of the rows, by their numbers from 0."""
        columns = {name: [values[row] for row in chosen] for name, values in self.columns.items()}
        return CsvTable(self.path, columns, [self.lines[row] for row in chosen])

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
        siblings = [entry.name for entry in path.parent.glob("*.csv")] if path.parent.is_dir() else []
        what = "is a folder, not a csv file" if path.is_dir() else "does not exist"
        raise DataError(f"the csv file {path} {what}{nearest(path.name, siblings)}")
    csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if row]
    except UnicodeDecodeError as error:
        raise DataError(_other_encoding(path)) from error
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


def _other_encoding(path: Path) -> str:
    """Say where a file stops being UTF-8, what it may be, and what to do."""
    data = path.read_bytes()
    try:
        data.decode()
        return f"the csv file {path} changed while it was read; run again"
    except UnicodeDecodeError as error:
        place, line = error.start, data.count(b"\n", 0, error.start) + 1
    likely = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "WINDOWS-1252"
    return (
        f"the csv file {path} is not UTF-8: byte {place:,} (0x{data[place]:02x}, line {line:,}) can't be read; save it "
        f"as UTF-8, or convert it, if it is {likely}: iconv -f {likely} -t UTF-8 {path.name} > new.csv"
    )
