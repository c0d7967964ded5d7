"""Ready features: a table of numbers, a folder of one table a client, or arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedgraft.data import cache
from fedgraft.data.labels import classes, label_names
from fedgraft.data.samples import Names, Samples, Targets, content_digests, numbered
from fedgraft.data.settings import ArraysSettings, FeaturesSettings
from fedgraft.data.sources import arrays
from fedgraft.data.sources.column_features import features_of, listed_lines
from fedgraft.data.sources.columns import ROW_INDEX, SHOWN, SUFFIXES, Columns, check_columns, read_columns
from fedgraft.data.sources.ready import ReadyFeatures
from fedgraft.data.sources.together import together
from fedgraft.errors import DataError, listed, nearest

_WHOLE = re.compile(r"^(-?\d+)\.0*$")
_OPTIONAL = ("natural_client", "group", "is_test")


def load(settings: FeaturesSettings, seed: int) -> Samples:
    """Return the rows of a table, or of all tables of a folder, in their order. `seed` is not used.

    Raises:
        DataError: a file or a column is missing, or a value can't be a feature or a target; each is named.
    """
    path = Path(settings.path).expanduser()
    if path.is_dir():
        files = (entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
        tables = sorted(entry for entry in files if entry.suffix.lower() in SUFFIXES)
        if tables:
            stems = [table.stem for table in tables]
            if len(set(stems)) < len(stems):
                raise DataError(f"{path}: two tables have one name, and each is a client: {listed(stems)}")
            return together(path, {table.stem: _table(settings, table) for table in tables}, settings.labels)
        if not any(path.glob("*.npy")):
            raise DataError(f"the folder {path} holds no tables ({', '.join(SUFFIXES)}) and no .npy files")
    if path.is_dir() or path.suffix.lower() == ".npz":
        return _arrays(settings)
    if path.suffix.lower() not in SUFFIXES:
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: expected .csv, .parquet, .npz or a folder of them{nearest(path.name, siblings)}")
    return _table(settings, path)


def _arrays(settings: FeaturesSettings) -> Samples:
    # Compared with what they are by default: hosts get the settings with every default written out.
    usual = FeaturesSettings(path=settings.path)
    names = sorted(set(type(settings).model_fields) - {"name", "path", "task"})
    given = [name for name in names if getattr(settings, name) != getattr(usual, name)]
    if given:
        raise DataError(
            f"{settings.path} holds arrays, whose names say what they are (features, labels, client, group, ids, "
            f"is_test); {listed(given)} is for tables"
        )
    samples = arrays.load(ArraysSettings(path=settings.path, task=settings.task), 0)
    if samples.kind != "features":
        raise DataError(f"{settings.path} holds images, no features; read it with source: {{name: arrays, path: ...}}")
    return samples


_ROLES = ("client", "group", "id", "split")


def _table(settings: FeaturesSettings, path: Path) -> Samples:
    """Return the rows of one table; what was made of it is kept, so that a second call parses no file."""
    try:
        state = path.stat()
    except OSError:
        read_columns(path)  # says what is wrong
        raise
    kept = cache.remembered(
        "sources",
        cache.digest_of("features-1", str(path.resolve()), settings.model_dump_json(exclude={"path"})),
        f"{state.st_size}-{state.st_mtime_ns}",
        lambda: _read(settings, read_columns(path)),
    )
    return Samples(
        inputs=ReadyFeatures(kept["features"], kept["digests"]),
        targets=kept["targets"],
        task=settings.task,
        label_names=tuple(kept["label_names"].tolist()),
        sample_ids=kept["sample_ids"],
        notes=tuple(kept["notes"].tolist()),
        feature_names=tuple(kept["feature_names"].tolist()),
        **{name: kept.get(name) for name in _OPTIONAL},
    )


def _read(settings: FeaturesSettings, table: Columns) -> Mapping[str, cache.AnyArray]:
    columns, notes = _feature_columns(settings, table)
    features, names = features_of(table, columns, settings.categories, settings.optional_columns)
    targets, outputs = _targets(settings, table)
    ids = _optional(table, settings.id_column)
    split = _optional(table, settings.split_column)
    optional = {
        "natural_client": _optional(table, settings.client_column),
        "group": _optional(table, settings.group_column),
        "is_test": None if split is None else np.char.lower(split) == "test",
    }
    return {
        "features": features,
        "digests": content_digests(features),
        "feature_names": np.array(names),
        "targets": targets,
        "label_names": np.array(outputs),
        "sample_ids": numbered(table.num_rows) if ids is None else ids,
        "notes": np.array(notes, dtype=np.str_),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _feature_columns(settings: FeaturesSettings, table: Columns) -> tuple[tuple[str, ...], list[str]]:
    """Return the columns of features, and notes on which they are where nobody named them."""
    roles = dict.fromkeys(settings.label_columns, "label_columns")
    for role in _ROLES:
        name = getattr(settings, f"{role}_column")
        roles |= {name: f"{role}_column"} if name is not None else {}
    wanted = {**dict.fromkeys((*(settings.feature_columns or ()),), "feature_columns"), **roles}
    optional = dict.fromkeys(settings.optional_columns, "optional_columns")
    check_columns(table, {**dict.fromkeys(settings.categories, "categories"), **optional, **wanted})
    if settings.feature_columns is not None:
        return settings.feature_columns, []
    index = [name for name in table.names if name in ROW_INDEX]
    columns = tuple(name for name in table.names if name not in roles and name not in index)
    if not columns:
        raise DataError(f"{table.path} has no column besides {listed(roles)}, so nothing is left for features")
    notes = [f"{len(columns)} columns are features: {listed(columns, 12)} (feature_columns would name others)"]
    if index:
        notes.append(f"the column '{index[0]}' of row numbers, as pandas writes it, is no feature")
    return columns, notes


def _optional(table: Columns, name: str | None) -> Names | None:
    return None if name is None else _filled(table, name)


def _filled(table: Columns, name: str) -> Names:
    """Return a column of texts in which every row says something."""
    texts = table.texts(name)
    empty = [row for row, text in enumerate(texts) if not text]
    if empty:
        shown = listed((table.place(row) for row in empty), SHOWN)
        raise DataError(f"{table.path}: column '{name}' is empty in {len(empty)} of {len(texts)} rows ({shown})")
    return np.array(texts)


def _targets(settings: FeaturesSettings, table: Columns) -> tuple[Targets, tuple[str, ...]]:
    """Return the targets of all rows, and the names of the head's outputs."""
    if settings.task == "classes":
        return _classes(settings, table)
    columns, faults = [], []
    for name in settings.label_columns:
        values, strange = table.numbers(name)
        if values.ndim > 1:
            raise DataError(f"{table.path}: column '{name}' holds lists; give each target a column of its own")
        good = np.isfinite(values) if settings.task == "real" else np.isin(values, (0, 1))
        if not good.all():
            what = "numbers" if settings.task == "real" else "0 or 1"
            rows = np.flatnonzero(~good)
            shown = ", ".join(
                f"'{strange.get(r, '') or table.texts(name)[r]}' in {table.place(r)}" for r in rows[:SHOWN]
            )
            faults.append(f"column '{name}': {len(rows)} of {len(good)} values are not {what} ({shown})")
        columns.append(values)
    if faults:
        raise DataError(f"{table.path}: {listed_lines(faults)}; task: {settings.task} needs them in each row")
    stacked = np.stack(columns, axis=1)
    if settings.task == "labels":
        return stacked.astype(np.uint8), settings.label_columns
    return stacked.astype(np.float32)[:, 0] if len(columns) == 1 else stacked.astype(np.float32), settings.label_columns


def _classes(settings: FeaturesSettings, table: Columns) -> tuple[Targets, tuple[str, ...]]:
    (name,) = settings.label_columns
    texts = _filled(table, name)
    values, strange = table.numbers(name)
    if not strange and values.ndim == 1:
        broken = texts[~np.isfinite(values) | (values != np.rint(values))]
        if len(broken):
            raise DataError(
                f"{table.path}: column '{name}' holds numbers that are not whole, such as {broken[0]}; "
                "set task: real to predict numbers, or write classes as words or whole numbers"
            )
        # 1.0 and 1 are one class; 01 and 1 are two, and large numbers keep all their figures
        texts = np.array([_WHOLE.sub(r"\1", text) for text in texts.tolist()])
    names = label_names(texts.tolist(), settings.labels, str(table.path))
    return classes(texts.tolist(), names), names
