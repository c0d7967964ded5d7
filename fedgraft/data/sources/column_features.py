"""Features out of a table's columns: numbers as they are, texts as 0 and 1 by declared values, lists side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.sources.columns import SHOWN, Columns
from fedgraft.errors import DataError, listed

Features = NDArray[np.float32]

IS_THERE = " is there"
"""What follows a column's name in the name of the feature that says whether a row has it."""

ADVICE = (
    "a missing value has to be filled in, or its row or column left out; a column of texts needs its values in "
    "`categories`; `optional_columns` may be missing; `feature_columns` says which columns are features"
)


def features_of(
    table: Columns, columns: Sequence[str], categories: Mapping[str, Sequence[str]], optional: Collection[str] = ()
) -> tuple[Features, tuple[str, ...]]:
    """Return the features `(N, D)` of some columns, and the name of each.

    A column of numbers is one feature of its name; one of lists is as many, `name[0]` and so on; one of texts with
    declared values is one feature of 0 or 1 a value, `name=value`. An optional column is 0 where a row lacks it, and
    followed by one more feature, `name is there`, of 0 or 1.

    Raises:
        DataError: names every column and the first rows where a value is missing, no number or not declared.
    """
    parts: list[NDArray[np.float64]] = []
    names: list[str] = []
    faults: list[str] = []
    for column in columns:
        if column in categories:
            values, fault = _categories(table, column, categories[column])
            names += [f"{column}={value}" for value in categories[column]]
        else:
            values, fault = _numbers(table, column, column in optional)
            names += [column] if values.ndim == 1 else [f"{column}[{place}]" for place in range(values.shape[1])]
        values = values.reshape(table.num_rows, -1)
        if column in optional:
            is_there = ~np.isnan(values).all(axis=1, keepdims=True)
            values = np.concatenate([np.where(is_there, values, 0.0), is_there], axis=1)
            names.append(f"{column}{IS_THERE}")
        parts.append(values)
        faults += [fault] if fault else []
    if faults:
        raise DataError(f"{table.path} has {_counted(faults)}: {listed_lines(faults)}; {ADVICE}")
    return np.concatenate(parts, axis=1).astype(np.float32), tuple(names)


def named_features(table: Columns, names: Sequence[str]) -> Features:
    """Return the features `(N, D)` that have the given names, for a model that takes them; columns may be in any order.

    Raises:
        DataError: a column is missing, or a value can't be taken.
    """
    columns = list(dict.fromkeys(_column_of(table, name) for name in names))
    missing = [name for name in columns if name not in table.names]
    if missing:
        raise DataError(f"it has no column {listed(map(repr, missing), 8)}; it has {listed(table.names)}")
    prefixes = {column: f"{column}=" for column in columns if column not in names}
    categories = {
        column: [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        for column, prefix in prefixes.items()
    }
    declared = {column: values for column, values in categories.items() if values}
    optional = [column for column in columns if f"{column}{IS_THERE}" in names]
    features, found = features_of(table, columns, declared, optional)
    places = {name: place for place, name in enumerate(found)}
    lacking = [name for name in names if name not in places]
    if lacking or len(found) != len(names):
        raise DataError(f"its columns give {len(found)} features, the model takes {len(names)}: {listed(names, 8)}")
    return features[:, [places[name] for name in names]]


def _column_of(table: Columns, name: str) -> str:
    """Return the column that a feature stands in: of its own name, or what is before `=value` or `[number]`."""
    if name in table.names:
        return name
    before, _, rest = name.partition("=")
    if rest and before in table.names:
        return before
    if name.endswith(IS_THERE) and name.removesuffix(IS_THERE) in table.names:
        return name.removesuffix(IS_THERE)
    listed_in = name[: name.rfind("[")] if name.endswith("]") and "[" in name else ""
    return listed_in if listed_in in table.names else name


def _numbers(table: Columns, column: str, may_lack: bool) -> tuple[NDArray[np.float64], str]:
    """Return a column's numbers, and what is wrong with them; NaN where a row may and does lack them."""
    values, strange = table.numbers(column)
    finite = (np.abs(values) <= np.finfo(np.float32).max).reshape(len(values), -1).all(axis=1)
    if may_lack and not strange:
        finite |= np.isnan(values).reshape(len(values), -1).all(axis=1)
    if finite.all():
        return values, ""
    if strange:
        shown = ", ".join(f"'{text}' in {table.place(row)}" for row, text in list(strange.items())[:SHOWN])
        return values, f"column '{column}': {len(strange)} of {len(values)} values are no numbers ({shown})"
    bad = np.flatnonzero(~finite)
    shown = listed((table.place(int(row)) for row in bad), SHOWN)
    return values, f"column '{column}': {len(bad)} of {len(values)} values are missing, infinite or too large ({shown})"


def _categories(table: Columns, column: str, values: Sequence[str]) -> tuple[NDArray[np.float64], str]:
    """Return 0 and 1 for each declared value, `(N, number of values)`, and which cells say something else."""
    texts = np.array(table.texts(column))
    found = texts[:, None] == np.array(values)
    unknown = np.flatnonzero(~found.any(axis=1))
    if not len(unknown):
        return found.astype(np.float64), ""
    shown = ", ".join(f"'{texts[row]}' in {table.place(int(row))}" for row in unknown[:SHOWN])
    text = f"column '{column}': {len(unknown)} of {len(texts)} values are not among {listed(values)} ({shown})"
    return found.astype(np.float64), text


def _counted(faults: Sequence[str]) -> str:
    return "a column that can't be a feature" if len(faults) == 1 else f"{len(faults)} columns that can't be features"


def listed_lines(faults: Sequence[str], limit: int = 8) -> str:
    """Return faults one after another, cut after `limit` with the number left out."""
    more = f"; and {len(faults) - limit} more" if len(faults) > limit else ""
    return "; ".join(faults[:limit]) + more
