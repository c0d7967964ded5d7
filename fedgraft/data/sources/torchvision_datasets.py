"""Any classification data set of torchvision; the targets are kept, so that a warm run imports no torchvision."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data import cache
from fedgraft.data.image_files import stacked
from fedgraft.data.samples import Image, Images, Indices, Samples, content_digests, numbered
from fedgraft.data.settings import TorchvisionSettings
from fedgraft.errors import DataError, nearest
from fedgraft.files import cache_directory


@dataclass(eq=False)
class _DatasetImages:
    """Inputs: the parts of a data set one after another (train, then test), opened at the first use."""

    settings: TorchvisionSettings
    content: NDArray[np.uint8]
    kind: Literal["images"] = "images"
    _parts: list[Any] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def images(self, indices: Indices) -> Images:
        """Read the images at `indices`."""
        with self._lock:  # several threads may ask first
            if not self._parts:
                self._parts = [part for part, _ in _parts(self.settings)]
        starts = np.cumsum([0, *(len(part) for part in self._parts)])
        numbers = np.searchsorted(starts, indices, side="right") - 1
        pairs = zip(numbers.tolist(), (indices - starts[numbers]).tolist(), strict=True)
        return stacked([_picture(self._parts[number][place][0]) for number, place in pairs])

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of each picture."""
        return self.content


def _picture(value: object) -> Image:
    from PIL import Image as Pillow

    if not isinstance(value, Pillow.Image):
        raise DataError(f"expected pictures from torchvision, and a {type(value).__name__} came; use another source")
    return np.asarray(value.convert("RGB"), dtype=np.uint8)


def load(settings: TorchvisionSettings, seed: int) -> Samples:
    """Return a data set's train and test parts; the test part is marked as official. `seed` is not used.

    Raises:
        DataError: torchvision has no such data set, its files are missing, or it is not for classification.
    """
    kept = cache.remembered(
        "sources", cache.digest_of("torchvision-1", settings.name), _stamp(settings), lambda: _read(settings)
    )
    is_test = kept["is_test"]
    return Samples(
        inputs=_DatasetImages(settings, kept["digests"]),
        targets=kept["targets"],
        task="classes",
        label_names=tuple(kept["label_names"].tolist()),
        sample_ids=numbered(len(is_test)),
        is_test=is_test if is_test.any() else None,
    )


def _root(settings: TorchvisionSettings) -> Path:
    return Path(settings.root).expanduser() if settings.root else cache_directory() / "torchvision"


def _stamp(settings: TorchvisionSettings) -> str:
    """Return the state of the files under the root, from one walk; nothing is read."""
    states = []
    for folder, folders, files in os.walk(_root(settings)):
        folders.sort()
        for name in sorted(files):
            path = Path(folder) / name
            state = path.stat()
            states.append(f"{path}\0{state.st_size}\0{state.st_mtime_ns}")
    return cache.digest_of(*states)


def _read(settings: TorchvisionSettings) -> dict[str, cache.AnyArray]:
    """Open every sample once: its target, and the digest of its picture."""
    targets: list[int] = []
    is_test: list[bool] = []
    names: list[str] = []
    digests = []
    for part, official in _parts(settings):
        names = [str(name) for name in getattr(part, "classes", [])] or names
        for place in range(len(part)):
            picture, target = part[place]
            if not isinstance(target, int | np.integer):
                raise DataError(
                    f"{settings.name} gives a target of type {type(target).__name__}, not a class number; "
                    "data sets for classification work"
                )
            digests.append(content_digests([_picture(picture)]))
            targets.append(int(target))
            is_test.append(official)
    return {
        "targets": np.array(targets, dtype=np.int64),
        "is_test": np.array(is_test, dtype=np.bool_),
        "digests": np.concatenate(digests),
        "label_names": np.array(_label_names(names, targets)),
    }


def _label_names(names: list[str], targets: list[int]) -> list[str]:
    known = max(targets) + 1
    return names if len(names) >= known else [str(number) for number in range(known)]


def _parts(settings: TorchvisionSettings) -> Iterator[tuple[Any, bool]]:
    """Open the train part and, where there is one, the test part, with whether it is the official test."""
    from torchvision import datasets

    name = settings.name.partition(":")[2]
    valid = [entry for entry in dir(datasets) if inspect.isclass(getattr(datasets, entry))]
    if name not in valid:
        raise DataError(f"torchvision has no data set '{name}'{nearest(name, valid)}")
    build = getattr(datasets, name)
    parameters = inspect.signature(build).parameters
    if "train" in parameters:
        choices: list[tuple[dict[str, Any], bool]] = [({"train": True}, False), ({"train": False}, True)]
    elif "split" in parameters:
        choices = [({"split": "train"}, False), ({"split": "test"}, True)]
    else:
        choices = [({}, False)]
    for choice, official in choices:
        if "download" in parameters:
            choice["download"] = settings.download
        yield _opened(build, settings, choice), official


def _opened(build: Any, settings: TorchvisionSettings, choice: dict[str, Any]) -> Any:
    root = _root(settings)
    try:
        return build(root=str(root), **choice)
    except (OSError, RuntimeError, ValueError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if settings.download:
            raise DataError(
                f"can't download {settings.name} into {root} ({reason}); where there is no network, copy the data "
                "set's files there, laid out as torchvision does, and set download: false"
            ) from error
        raise DataError(
            f"{settings.name} can't be opened in {root} ({reason}); put the data set's files there, laid out as "
            "torchvision does (unpacked), name another folder as root, or set download: true"
        ) from error
