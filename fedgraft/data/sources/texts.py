"""A csv table of texts, cleaned, with labels, several labels or real targets, and optional columns."""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.notes import counted
from fedgraft.data.samples import Indices, Samples, numbered
from fedgraft.data.settings import TextCsvSettings
from fedgraft.data.sources.csv_table import read_csv
from fedgraft.data.sources.labelled_csv import mixed_labels, optional_columns, targets_of
from fedgraft.errors import DataError

_ENTITY = re.compile(r"&#?\w+;")  # whole ones only: &copy=1 in an address stays
ESCAPED = 2
"""Times that texts may have been escaped: `&amp;amp;` is what became of `&` on its way through two programs."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Inputs: cleaned texts in memory."""

    content: tuple[str, ...]
    kind: Literal["texts"] = "texts"

    def texts(self, indices: Indices) -> list[str]:
        """Return the texts at `indices`."""
        return [self.content[index] for index in indices.tolist()]

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of each text, `(num_samples, 16)`."""
        found = (hashlib.blake2b(text.encode(), digest_size=16, person=b"text-1").digest() for text in self.content)
        return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, 16)


def load(settings: TextCsvSettings, seed: int) -> Samples:
    """Return the texts of a table, in its order. `seed` is not used.

    Raises:
        DataError: the file, a column or every text is missing, or a value makes no sense for the task.
    """
    table = read_csv(Path(settings.path).expanduser())
    texts = [cleaned(text) for text in table.column(settings.text_column, "text_column")]
    filled = [row for row, text in enumerate(texts) if text]
    if not filled:
        raise DataError(f"csv {table.path}: column '{settings.text_column}' is empty in every row")
    empty = [f"line {table.lines[row]}" for row, text in enumerate(texts) if not text]
    notes = counted(empty, "empty text left out", "empty texts left out")
    whole, texts, table = numbered(len(table.lines))[filled], [texts[row] for row in filled], table.rows(filled)
    targets, names = targets_of(settings, table)
    columns = optional_columns(settings, table)
    rows = np.arange(len(texts))
    if settings.duplicates == "drop":
        rows, told = _without_duplicates(texts, targets, columns.is_test)
        notes += told
    return Samples(
        inputs=Texts(tuple(texts[row] for row in rows.tolist())),
        targets=targets[rows],
        task=settings.task,
        label_names=names,
        sample_ids=(whole if columns.ids is None else columns.ids)[rows],
        natural_client=None if columns.client is None else columns.client[rows],
        group=None if columns.group is None else columns.group[rows],
        is_test=None if columns.is_test is None else columns.is_test[rows],
        notes=(*notes, *(mixed_labels(names) if settings.task == "classes" else ())),
    )


def cleaned(text: str) -> str:
    """Return a text as a person reads it: HTML entities as what they stand for, white space as single blanks, NFC."""
    for _ in range(ESCAPED):
        text = _ENTITY.sub(lambda found: html.unescape(found[0]), text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def _without_duplicates(
    texts: Sequence[str], targets: NDArray[np.generic], is_test: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Return the rows that stay, ascending, and a note about the others.

    The official test part stays as it is, so that its scores can be compared with those of others. In the rest each
    text stands once, so that no client validates on what another trains on.
    """
    first: dict[str, int] = {}
    if is_test is not None:
        first |= {texts[row]: row for row in reversed(np.flatnonzero(is_test).tolist())}
    why = "left out, as an earlier row has" if is_test is None else "left out, as the test part or an earlier row has"
    ours = np.ones(len(texts), dtype=np.bool_) if is_test is None else ~is_test
    dropped = [row for row, text in enumerate(texts) if ours[row] and first.setdefault(text, row) != row]
    if not dropped:
        return np.arange(len(texts)), []
    differ = sum(not np.array_equal(targets[row], targets[first[texts[row]]]) for row in dropped)
    what, same = ("text", "it") if len(dropped) == 1 else ("texts", "them")
    note = f"{len(dropped):,} {what} {why} {same} too" + (f"; {differ:,} of these with another label" if differ else "")
    return np.setdiff1d(np.arange(len(texts)), dropped), [note]
