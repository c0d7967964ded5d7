"""Columns of a table by name, as numbers and as texts, whatever the file: .csv or .parquet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.sources.csv_table import CsvTable, read_csv
from fedgraft.errors import DataError, listed, nearest

SUFFIXES = (".csv", ".parquet")
ROW_INDEX = ("", "Unnamed: 0", "__index_level_0__")
"""What pandas calls the numbers of a frame's rows when it writes them into a table."""
SHOWN = 3

Numbers = NDArray[np.float64]


class Columns(Protocol):
    """A table's columns."""

    @property
    def path(self) -> Path:
        """Where the table lies."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all columns, in the file's order."""

    @property
    def num_rows(self) -> int:
        """Return the number of rows below the header."""

    def place(self, row: int) -> str:
        """Say where a row stands in the file, in a person's words."""

    def texts(self, name: str) -> list[str]:
        """Return a column as texts, empty where a value is missing."""

    def numbers(self, name: str) -> tuple[Numbers, dict[int, str]]:
        """Return a column as numbers `(N,)`, or of lists `(N, D)`, with the cells that are none, by row.

        Missing values are NaN, as is each cell that is no number.
        """


def read_columns(path: Path) -> Columns:
    """Open a table.

    Raises:
        DataError: it is missing, unreadable or empty, or of another kind.
    """
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    if path.suffix.lower() == ".csv":
        return _Csv(read_csv(path))
    raise DataError(f"{path} is no table: expected a file of {' or '.join(SUFFIXES)}")


def check_columns(table: Columns, wanted: Mapping[str, str]) -> None:
    """Refuse a table that lacks columns.

    Args:
        table: which.
        wanted: the names, each with the setting that says so.

    Raises:
        DataError: names those that are missing, and those that there are.
    """
    missing = [name for name in wanted if name not in table.names]
    if missing:
        said = listed(f"'{name}' ({wanted[name]})" for name in missing)
        raise DataError(
            f"{table.path} has no column {said}; it has {listed(table.names)}{nearest(missing[0], table.names)}"
        )


@dataclass(frozen=True)
class _Csv:
    table: CsvTable

    @property
    def path(self) -> Path:
        return self.table.path

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.table.columns)

    @property
    def num_rows(self) -> int:
        return len(self.table.lines)

    def place(self, row: int) -> str:
        return f"line {self.table.lines[row]}"

    def texts(self, name: str) -> list[str]:
        return self.table.columns[name]

    def numbers(self, name: str) -> tuple[Numbers, dict[int, str]]:
        return parsed(self.table.columns[name])


def parsed(texts: list[str]) -> tuple[Numbers, dict[int, str]]:
    """Return texts as numbers `(N,)`, NaN where there is none, and the texts that are no numbers, by row."""
    try:
        return np.array([text or "nan" for text in texts], dtype=np.float64), {}
    except ValueError:
        pass
    values, strange = np.full(len(texts), np.nan), {}
    for row, text in enumerate(texts):
        try:
            values[row] = float(text or "nan")
        except ValueError:
            strange[row] = text
    return values, strange


def _parquet(path: Path) -> Columns:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f'reading {path} needs the package pyarrow: pip install "fedgraft[tables]"') from error
    try:
        table = parquet.read_table(path)
    except FileNotFoundError as error:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"the file {path} does not exist{nearest(path.name, siblings)}") from error
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"{path} is no whole .parquet file ({next(iter(str(error).splitlines()), '')})") from error
    if not table.num_rows:
        raise DataError(f"{path} has no rows")
    if len(set(table.column_names)) < len(table.column_names):
        raise DataError(f"{path}: a column name stands twice: {listed(table.column_names)}")
    return _Parquet(path, table)


@dataclass(frozen=True)
class _Parquet:
    path: Path
    table: Any

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.table.column_names)

    @property
    def num_rows(self) -> int:
        return int(self.table.num_rows)

    def place(self, row: int) -> str:
        return f"row {row}"

    def texts(self, name: str) -> list[str]:
        values = self.table[name].to_pylist()
        return ["" if value is None or value != value else str(value) for value in values]

    def numbers(self, name: str) -> tuple[Numbers, dict[int, str]]:
        import pyarrow as arrow

        column = self.table[name].combine_chunks()
        kind = column.type
        if arrow.types.is_list(kind) or arrow.types.is_large_list(kind) or arrow.types.is_fixed_size_list(kind):
            return _lists(self.path, name, column), {}
        if arrow.types.is_boolean(kind) or arrow.types.is_integer(kind) or arrow.types.is_null(kind):
            column = column.cast(arrow.float64(), safe=False)
        elif arrow.types.is_floating(kind) or arrow.types.is_decimal(kind):
            column = column.cast(arrow.float64())
        else:
            return parsed(self.texts(name))
        return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64), {}


def _lists(path: Path, name: str, column: Any) -> Numbers:
    """Return a column of lists of equal length as `(N, D)`; a missing list is a row of NaN."""
    import pyarrow as arrow
    import pyarrow.compute as compute

    if arrow.types.is_fixed_size_list(column.type) and column.null_count == len(column):
        return np.full((len(column), column.type.list_size), np.nan)  # a modality that nobody has
    lengths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
    is_there = ~np.isnan(np.asarray(lengths, dtype=np.float64))
    widths = np.unique(np.asarray(lengths, dtype=np.float64)[is_there]).astype(np.int64)
    if len(widths) != 1 or widths[0] == 0:
        came = listed(map(str, widths.tolist()), 5) or "no"
        raise DataError(f"{path}: the lists of column '{name}' hold {came} numbers; all must be of one length")
    try:
        flat = column.filter(arrow.array(is_there)).flatten().cast(arrow.float64())
    except arrow.ArrowException as error:
        raise DataError(f"{path}: the lists of column '{name}' hold no numbers, but {column.type}") from error
    values = np.full((len(is_there), int(widths[0])), np.nan)
    values[is_there] = np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(-1, int(widths[0]))
    return values
