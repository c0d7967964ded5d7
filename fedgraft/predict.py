"""What a run's model says of a user's own files."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.image_files import stacked
from fedgraft.data.images import SUFFIXES, decode
from fedgraft.data.sounds import SUFFIXES as SOUND_SUFFIXES
from fedgraft.errors import DataError, ModelError, nearest
from fedgraft.feature_rows import ROW_SUFFIXES, read_rows
from fedgraft.kinds import Kind
from fedgraft.models.catalogue import kind_of
from fedgraft.progress import report

if TYPE_CHECKING:
    from fedgraft.model_card import Card
    from fedgraft.models.backbone import Backbone
    from fedgraft.models.losses import Task
    from fedgraft.runs import Run
    from fedgraft.trained import TrainedModel

ROWS_A_BATCH = 4096
SHOWN = 10
"""Files left out that are named; the others are counted."""

Outputs = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says of one picture or recording, or of one row of a table or array file.

    Attributes:
        file: the picture, the recording, or the table or array file.
        row_number: row of the table or array file, from 0; None for others.
        task: what the model was trained for; decides which of the values below there are.
        label_names: names of the outputs.
        outputs: `(num_outputs,)` probabilities, or real numbers.
        best: index of the class with the largest logit; None unless the task is `classes`.
        text: the text, where the model takes texts; one that was given itself has no file.
    """

    file: Path | None
    row_number: int | None
    task: Task
    label_names: tuple[str, ...]
    outputs: Outputs
    best: int | None = None
    text: str | None = None

    @property
    def label(self) -> str | None:
        """The most probable class; None for several labels and real numbers."""
        return None if self.best is None else self.label_names[self.best]

    @property
    def labels(self) -> tuple[str, ...]:
        """The class, or every label of a probability above 0.5; empty for real numbers."""
        if self.best is not None:
            return (self.label_names[self.best],)
        return tuple(name for name, value in self.probabilities.items() if value > 0.5)

    @property
    def probability(self) -> float | None:
        """The probability of `label`; None for several labels and real numbers."""
        return None if self.best is None else float(self.outputs[self.best])

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of every class or label, by name; empty for real numbers."""
        return {} if self.task == "real" else self._by_name()

    @property
    def values(self) -> dict[str, float]:
        """The predicted real numbers, by name; empty for classes and labels."""
        return self._by_name() if self.task == "real" else {}

    @property
    def name(self) -> str:
        """The file, with the row where it holds several, or the text that was given itself."""
        if self.file is None:
            return self.text or ""
        return str(self.file) if self.row_number is None else f"{self.file}[{self.row_number}]"

    def row(self) -> tuple[str, str, str | None]:
        """Return file, prediction and probability as a table shows them."""
        if self.task == "real":
            numbers = [f"{value:.5g}" for value in self.values.values()]
            named = numbers if len(numbers) == 1 else [f"{a} {b}" for a, b in zip(self.values, numbers, strict=True)]
            return self.name, ", ".join(named), None
        chances = ", ".join(f"{self.probabilities[label]:.3f}" for label in self.labels)
        return self.name, ", ".join(self.labels) or "none", chances or None

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values; what the task doesn't have is left out."""
        place: dict[str, Any] = {} if self.file is None else {"file": str(self.file)}
        place |= {} if self.row_number is None else {"row": self.row_number}
        place |= {} if self.text is None else {"text": self.text}
        if self.task == "real":
            return {**place, "values": self.values}
        if self.task == "labels":
            return {**place, "labels": list(self.labels), "probabilities": self.probabilities}
        return {
            **place,
            "label": self.label,
            "probability": self.probability,
            "probabilities": self.probabilities,
        }

    def _by_name(self) -> dict[str, float]:
        return dict(zip(self.label_names, self.outputs.tolist(), strict=True))


@dataclass
class _Faults:
    """Files that can't be predicted, and why."""

    reasons: dict[Path, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        lines = [f"{path}: {reason}" for path, reason in list(self.reasons.items())[:SHOWN]]
        more = len(self.reasons) - SHOWN
        return [*lines, f"and {more} more"] if more > 0 else lines


def predict_files(run: Run, files: Sequence[str | Path]) -> list[Prediction]:
    """Return what a run's model says of files, in their order; a folder stands for all files in it, sorted.

    Pictures of any size and kind, and recordings of any length, rate and number of channels, are read and prepared as
    those that the run was trained on. Runs with the backbone `identity` take `.csv` and `.parquet` tables with the
    columns that they were trained on, `.npy` files, or `.npz` files with an array `features`, of `(N, feature_dim)` or
    of one row. Runs on texts take `.txt` files, and `.csv` files with a column `text`. A file that can't be read is
    told of as a `note` event, and the others are predicted all the same.

    Raises:
        DataError: not one file can be predicted.
        StoreError, ModelError: the run has no model, see `fedgraft.trained.trained_model`.
    """
    faults = _Faults()
    suffixes, predict = _KINDS[kind_of(run.scenario.backbone.name)]
    found = list(_expanded(files, suffixes, faults))
    predictions = predict(run.model, found, run.scenario.features.batch_size, faults) if found else []
    if not predictions:
        reasons = "".join(f"\n  {line}" for line in faults.lines())
        raise DataError(f"not one file can be predicted:{reasons}" if reasons else "no files to predict; name some")
    for line in faults.lines():
        report("note", text=f"left out: {line}")
    return predictions


def _expanded(files: Iterable[str | Path], suffixes: frozenset[str], faults: _Faults) -> Iterable[Path]:
    """Yield files, and for each folder the files with such suffixes in it and below, but not the hidden ones."""
    for path in map(Path, files):
        if path.is_dir():
            inside = sorted(
                entry
                for entry in path.rglob("*")
                if entry.suffix.lower() in suffixes
                and not any(part.startswith(".") for part in entry.relative_to(path).parts)
                and entry.is_file()
            )
            if not inside:
                faults.reasons[path] = f"the folder holds no files of {', '.join(sorted(suffixes))}"
            yield from inside
        elif path.exists():
            yield path
        else:
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            faults.reasons[path] = f"no such file{nearest(path.name, siblings)}"


@dataclass(frozen=True)
class _Reader:
    """How files become what the code that computes features reads.

    Attributes:
        one: reads a file.
        blank: keeps the place in the batch of one that can't be read.
        together: makes a batch of several.
        reason: says why a file can't be read.
    """

    one: Callable[[Path], Any]
    blank: Any
    together: Callable[[list[Any]], Any]
    reason: Callable[[Path, Exception], str]


def _of_images(model: TrainedModel, files: Sequence[Path], batch_size: int, faults: _Faults) -> list[Prediction]:
    """Predict pictures: read by threads, resized as bytes, normalised."""
    reader = _Reader(decode, np.zeros((1, 1, 3), dtype=np.uint8), stacked, _reason)
    return _of_files(model, files, batch_size, faults, reader)


def _of_sounds(model: TrainedModel, files: Sequence[Path], batch_size: int, faults: _Faults) -> list[Prediction]:
    """Predict recordings: mixed to one channel, resampled, cut or filled up."""
    from fedgraft.data.sounds import heard
    from fedgraft.models.preprocessing import SoundPreprocessing

    steps = cast(SoundPreprocessing, model.card.info.preprocessing)
    reader = _Reader(
        one=lambda path: heard(path, steps.sample_rate),
        blank=np.zeros(1, dtype=np.float32),
        together=lambda sounds: (sounds, steps.sample_rate),
        reason=lambda path, error: (
            "this run takes recordings, not arrays" if path.suffix.lower() in ROW_SUFFIXES else _first_line(error)
        ),
    )
    return _of_files(model, files, batch_size, faults, reader)


def _of_files(
    model: TrainedModel, files: Sequence[Path], batch_size: int, faults: _Faults, reader: _Reader
) -> list[Prediction]:
    """Predict files by the code that computes features."""
    import torch

    from fedgraft.features.inputs import batches_of

    unreadable: dict[int, str] = {}

    def read(indices: NDArray[np.int64]) -> Any:
        return reader.together([one(index) for index in indices.tolist()])

    def one(index: int) -> Any:
        try:
            return reader.one(files[index])
        except Exception as error:  # what a damaged file raises differs by format and damage
            unreadable[index] = reader.reason(files[index], error)
            return reader.blank

    backbone = cast("Backbone", model.backbone)
    predictions: list[Prediction] = []
    # Warnings about odd EXIF or palettes are silenced around the threads: filters belong to the whole process.
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        for batch, inputs in batches_of(backbone, read, np.arange(len(files), dtype=np.int64), batch_size):
            outputs = model.outputs(backbone.features(inputs))
            made = predictions_of(model.card, [(files[index], None) for index in batch.tolist()], outputs)
            predictions += [
                prediction for index, prediction in zip(batch.tolist(), made, strict=True) if index not in unreadable
            ]
            if len(files) > batch_size:
                report("progress", what="predictions", done=int(batch[-1]) + 1, total=len(files))
    faults.reasons |= {files[index]: unreadable[index] for index in sorted(unreadable)}
    return predictions


def _of_rows(model: TrainedModel, files: Sequence[Path], batch_size: int, faults: _Faults) -> list[Prediction]:
    """Predict the rows of tables and array files."""
    import torch

    predictions: list[Prediction] = []
    for path in files:
        try:
            rows = read_rows(path, model.card.info.feature_dim, model.card.feature_names)
        except DataError as error:
            faults.reasons[path] = str(error)
            continue
        for first in range(0, len(rows), ROWS_A_BATCH):
            chunk = torch.from_numpy(rows[first : first + ROWS_A_BATCH])
            with torch.inference_mode():
                outputs = model(chunk)
            predictions += predictions_of(model.card, [(path, first + row) for row in range(len(chunk))], outputs)
    return predictions


def predictions_of(
    card: Card, places: Sequence[tuple[Path | None, int | None]], outputs: dict[str, Any]
) -> list[Prediction]:
    """Return what outputs `(num_places, num_outputs)` of a model say of files and rows.

    Raises:
        ModelError: an output is not finite.
    """
    values: Outputs = outputs[card.output_names[-1]].numpy()
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ModelError(
            f"the model gives NaN or infinite outputs for {places[row][0] or 'a text'}; look at the run's metrics"
        )
    best = outputs["logits"].argmax(dim=1).tolist() if card.task == "classes" else [None] * len(places)
    return [
        Prediction(file, row, card.task, card.label_names, values[number], best[number])
        for number, (file, row) in enumerate(places)
    ]


def _of_texts(model: TrainedModel, files: Sequence[Path], batch_size: int, faults: _Faults) -> list[Prediction]:
    """Predict texts in files."""
    from fedgraft.predict_texts import places_in, predict_places

    places = []
    for path in files:
        try:
            places += places_in(path)
        except (DataError, OSError) as error:
            faults.reasons[path] = _first_line(error)
    return predict_places(model, places, batch_size) if places else []


Predict = Callable[["TrainedModel", Sequence[Path], int, _Faults], list[Prediction]]
"""Predicts files in their order, inputs of a batch at once; tells of those that it can't read."""

_KINDS: dict[Kind, tuple[frozenset[str], Predict]] = {
    "images": (SUFFIXES, _of_images),
    "features": (ROW_SUFFIXES, _of_rows),
    "sounds": (SOUND_SUFFIXES, _of_sounds),
    "texts": (frozenset({".csv", ".txt"}), _of_texts),
}
"""Of each kind of inputs: the suffixes of the files that a folder stands for, and what predicts them."""


def _reason(path: Path, error: Exception) -> str:
    """Say why a picture can't be read."""
    from PIL import UnidentifiedImageError

    if path.suffix.lower() in ROW_SUFFIXES:
        return "this run takes pictures, not rows of numbers"
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged"
    return (error.strerror if isinstance(error, OSError) else None) or _first_line(error)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
