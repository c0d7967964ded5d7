"""What a run's model says of texts: given as they are, or in .txt files (one text each) and .csv files (one a row)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.sources.csv_table import read_csv
from fedgraft.data.sources.texts import cleaned
from fedgraft.errors import DataError, listed
from fedgraft.models.catalogue import kind_of
from fedgraft.predict import Prediction, predictions_of
from fedgraft.progress import report

if TYPE_CHECKING:
    from fedgraft.models.backbone import Backbone
    from fedgraft.runs import Run
    from fedgraft.trained import TrainedModel

COLUMN = "text"
"""Of the texts in a .csv file that has several columns."""


@dataclass(frozen=True)
class Place:
    """A text, and where it stands.

    Attributes:
        file: the file; None where the text was given itself.
        row_number: row of a .csv file, from 0 below the header; None for others.
        text: cleaned as those that the run was trained on.
    """

    file: Path | None
    row_number: int | None
    text: str


def predict_texts(run: Run, texts: Sequence[str]) -> list[Prediction]:
    """Return what a run's model says of texts, in their order.

    Raises:
        DataError: the run was trained on something else, or a text is empty.
        StoreError, ModelError: the run has no model, see `fedgraft.trained.trained_model`.
    """
    takes = kind_of(run.scenario.backbone.name)
    if takes != "texts":
        raise DataError(f"this run was trained on {takes}, not texts; name files of {takes}")
    places = [Place(None, None, cleaned(text)) for text in texts]
    empty = [str(number) for number, place in enumerate(places) if not place.text]
    if empty:
        raise DataError(f"{len(empty)} of {len(places)} texts are empty (number {listed(empty, 5)}); leave them out")
    return predict_places(run.model, places, run.scenario.features.batch_size)


def places_in(path: Path) -> list[Place]:
    """Return the texts in a file; empty rows of a .csv file are left out.

    Raises:
        DataError: it can't be read, is of another kind, or holds no text.
    """
    if path.suffix.lower() == ".csv":
        table = read_csv(path)
        names = list(table.columns)
        if COLUMN not in names and len(names) > 1:
            raise DataError(f"it has the columns {listed(names)}; call the one of the texts '{COLUMN}'")
        column = table.columns[COLUMN if COLUMN in names else names[0]]
        places = [Place(path, row, cleaned(text)) for row, text in enumerate(column)]
    elif path.suffix.lower() == ".txt":
        try:
            places = [Place(path, None, cleaned(path.read_text(encoding="utf-8-sig")))]
        except UnicodeDecodeError as error:
            raise DataError(f"it is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    else:
        raise DataError("this run takes texts: .txt files, or .csv files with a column 'text'")
    filled = [place for place in places if place.text]
    if not filled:
        raise DataError("it holds no text")
    return filled


def predict_places(model: TrainedModel, places: Sequence[Place], batch_size: int) -> list[Prediction]:
    """Predict texts by the code that computes features, in their order."""
    import torch

    from fedgraft.features.inputs import batches_of

    def read(indices: NDArray[np.int64]) -> list[str]:
        return [places[index].text for index in indices.tolist()]

    backbone = cast("Backbone", model.backbone)
    found: dict[int, Prediction] = {}
    with torch.inference_mode():
        for batch, inputs in batches_of(backbone, read, np.arange(len(places), dtype=np.int64), batch_size):
            chosen = [places[index] for index in batch.tolist()]
            outputs = model.outputs(backbone.features(inputs))
            made = predictions_of(model.card, [(place.file, place.row_number) for place in chosen], outputs)
            for index, place, prediction in zip(batch.tolist(), chosen, made, strict=True):
                found[index] = replace(prediction, text=place.text)
            if len(places) > batch_size:
                report("progress", what="predictions", done=len(found), total=len(places))
    return [found[index] for index in range(len(places))]
