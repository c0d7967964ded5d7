"""The file of a run directory that says what features were aligned onto."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fedgraft.alignment.maps import check_ground
from fedgraft.alignment.moments import Array
from fedgraft.alignment.settings import MapSettings
from fedgraft.errors import StoreError, WireError
from fedgraft.tensor_files import read_tensors, save_tensors, tensors_digest
from fedgraft.wire.protocol import SCHEMA

ALIGNMENT_FILE = "alignment.safetensors"


def save_alignment(folder: Path, settings: MapSettings, arrays: Mapping[str, NDArray[Any]], num_samples: int) -> None:
    """Write what features are aligned onto, and of how many samples it is.

    Raises:
        StoreError: the folder can't be written, or the disk is full.
    """
    facts = {"schema": SCHEMA, "align": settings.model_dump(mode="json"), "num_samples": num_samples}
    facts["digest"] = tensors_digest(arrays, facts)
    save_tensors(folder / ALIGNMENT_FILE, arrays, facts)


def read_alignment(folder: Path, settings: MapSettings, feature_dim: int) -> dict[str, Array]:
    """Return what the features of a run are aligned onto.

    Args:
        folder: of the run.
        settings: the scenario's.
        feature_dim: features a sample.

    Raises:
        StoreError: the file is missing or damaged, or is not of this scenario.
    """
    path = folder / ALIGNMENT_FILE
    arrays, facts = read_tensors(path)
    wanted, came = facts.pop("digest", None), facts.get("align")
    if wanted != tensors_digest(arrays, facts):
        raise StoreError(f"{path} is damaged: its digest is another; start a new run")
    if facts.get("schema") != SCHEMA or came != settings.model_dump(mode="json"):
        raise StoreError(f"{path} was written for align {came}; the scenario says {settings.model_dump(mode='json')}")
    try:
        return check_ground(settings, arrays, feature_dim, str(path))
    except WireError as error:
        raise StoreError(str(error)) from error
