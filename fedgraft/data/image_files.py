"""Image files of a source: which can be read, and what they hold; a file is inspected once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data import cache
from fedgraft.data.images import decode, inspect
from fedgraft.data.notes import counted
from fedgraft.data.samples import Image, Images, Indices
from fedgraft.errors import DataError


@dataclass(frozen=True)
class FileState:
    """One file as the file system describes it: name (relative to the source), bytes, time of change."""

    name: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, eq=False)
class FileImages:
    """Inputs that lie in image files; only the files that are asked for are read."""

    root: Path
    names: tuple[str, ...]
    content: NDArray[np.uint8]
    kind: Literal["images"] = "images"

    def images(self, indices: Indices) -> Images:
        """Decode the images at `indices`."""
        return stacked([self._decoded(self.root / self.names[index]) for index in indices.tolist()])

    def _decoded(self, path: Path) -> Image:
        try:
            return decode(path)
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise DataError(
                f"{path} could be read before and can't be now ({error}); put it back or run again without it"
            ) from error

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of each file's content."""
        return self.content


def stacked(pictures: list[Image]) -> Images:
    """Return pictures as one array if they have one size, otherwise as they are."""
    return np.stack(pictures) if len({picture.shape for picture in pictures}) == 1 else pictures


def readable(root: Path, files: Sequence[FileState], what: str) -> tuple[NDArray[np.bool_], FileImages, list[str]]:
    """Return which files can be decoded, `(num_files,)`, these as inputs, and a note about the others.

    What is known of a file holds as long as its size and time of change do; it is kept in the cache.

    Raises:
        DataError: not one file can be decoded.
    """
    digests, faults = _inspected(root, files, what)
    good = np.array([not fault for fault in faults], dtype=np.bool_)
    bad = [file.name for file, fault in zip(files, faults, strict=True) if fault]
    if files and not good.any():
        raise DataError(
            f"{what}: none of the {len(files)} images can be read (first: {bad[0]}: {faults[0]}); "
            "are they images that Pillow knows?"
        )
    names = tuple(file.name for file, fault in zip(files, faults, strict=True) if not fault)
    notes = counted(bad, "unreadable image left out", "unreadable images left out")
    return good, FileImages(root, names, digests[good]), notes


def _inspected(root: Path, files: Sequence[FileState], what: str) -> tuple[NDArray[np.uint8], list[str]]:
    """Return each file's digest, `(num_files, 16)`, and its fault or an empty text."""
    key = cache.digest_of("files-1", str(root.resolve()), what)
    known = _known(cache.read("sources", key))
    missing = [number for number, file in enumerate(files) if file not in known]
    # Pillow decodes outside Python's lock. Its warnings (odd EXIF, many pixels) do not make an image unreadable;
    # they are silenced here, around the threads, as the filters belong to the whole process.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        fresh = pool.map(lambda number: inspect(root / files[number].name), missing)
        found = dict(zip(missing, fresh, strict=True))
    results = [found[number] if number in found else known[file] for number, file in enumerate(files)]
    digests = np.frombuffer(b"".join(digest for digest, _ in results), dtype=np.uint8).reshape(-1, 16)
    faults = [fault for _, fault in results]
    if missing:
        cache.write(
            "sources",
            key,
            {
                "names": _packed([file.name for file in files]),
                "faults": _packed(faults),
                "states": np.array([(file.size, file.mtime_ns) for file in files], dtype=np.int64),
                "digests": digests,
            },
        )
    return digests, faults


def _known(kept: dict[str, cache.AnyArray] | None) -> dict[FileState, tuple[bytes, str]]:
    if kept is None:
        return {}
    rows = zip(
        _unpacked(kept["names"]), kept["states"].tolist(), kept["digests"], _unpacked(kept["faults"]), strict=True
    )
    return {FileState(name, *state): (digest.tobytes(), fault) for name, state, digest, fault in rows}


def _packed(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Return texts as bytes with a zero between: names of unequal length, whatever their encoding."""
    return np.frombuffer("\0".join(texts).encode(errors="surrogateescape"), dtype=np.uint8)


def _unpacked(packed: cache.AnyArray) -> list[str]:
    return packed.tobytes().decode(errors="surrogateescape").split("\0")
