"""Descriptions of backbones on disk, so that a warm run neither builds a model nor imports its library.

An entry is keyed by the settings and the versions of the libraries, and lists the size and time of the files
that the weights came from: a file that changed or went away makes the entry void.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedgraft.errors import StoreError
from fedgraft.files import cache_directory, write_text
from fedgraft.models.catalogue import MINILM
from fedgraft.models.info import BackboneInfo
from fedgraft.models.preprocessing import digest_of
from fedgraft.models.settings import BackboneSettings

SCHEMA = 1
_LIBRARIES = {"bundled": "timm", "timm": "timm", "torchvision": "torchvision", "pixels": "torch"}
_OWN = "torch"
_LIBRARIES |= {"transformers": "transformers", MINILM: "transformers"}
_log = logging.getLogger(__name__)


def read(settings: BackboneSettings) -> BackboneInfo | None:
    """Return the remembered description, or None if there is none, or it is void or damaged."""
    try:
        entry = json.loads(_path(settings).read_text())
        if entry["schema"] == SCHEMA and entry["files"] == [_stamp(Path(file)) for file, *_ in entry["files"]]:
            return BackboneInfo.from_json(entry["info"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # never seen, or damaged: it is made again
    return None


def write(settings: BackboneSettings, info: BackboneInfo, files: Sequence[Path]) -> None:
    """Remember a description; a cache that can't be written costs time at the next call, not the run."""
    try:
        entry = {"schema": SCHEMA, "files": [_stamp(file) for file in files], "info": info.as_json()}
        write_text(_path(settings), json.dumps(entry, indent=1))
    except (OSError, StoreError) as error:
        _log.info("the description of %s isn't remembered: %s", settings.name, error)


def library_of(name: str) -> str:
    """Return the library that runs a backbone, with its version, such as `timm 1.0.20`."""
    library = _LIBRARIES.get(name) or _LIBRARIES.get(name.partition(":")[0], _OWN)
    return f"{library} {_version(library)}"


def _path(settings: BackboneSettings) -> Path:
    chosen = settings.model_dump(mode="json")
    if settings.weights not in ("pretrained", "random"):
        chosen["weights"] = str(Path(settings.weights).expanduser().absolute())
    key = digest_of([SCHEMA, chosen, library_of(settings.name), _version("torch")])
    return cache_directory() / "backbones" / f"{key}.json"


def _stamp(file: Path) -> list[Any]:
    status = file.stat()
    return [str(file), status.st_size, status.st_mtime_ns]


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
