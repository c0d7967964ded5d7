"""A csv table of image paths, with labels, several labels or real targets, and optional columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedgraft.data.image_files import readable
from fedgraft.data.inspected import FileState
from fedgraft.data.notes import counted
from fedgraft.data.samples import Samples
from fedgraft.data.settings import CsvSettings
from fedgraft.data.sources.csv_table import read_csv
from fedgraft.data.sources.labelled_csv import mixed_labels, optional_columns, targets_of
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
    targets, names = targets_of(settings, table)
    columns = optional_columns(settings, table)
    return Samples(
        inputs=inputs,
        targets=targets[rows],
        task=settings.task,
        label_names=names,
        sample_ids=(np.array(images) if columns.ids is None else columns.ids)[rows],
        natural_client=None if columns.client is None else columns.client[rows],
        group=None if columns.group is None else columns.group[rows],
        is_test=None if columns.is_test is None else columns.is_test[rows],
        notes=(*notes, *unreadable, *(mixed_labels(names) if settings.task == "classes" else ())),
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
