"""Image files of a source: which can be read, and what they hold; a file is inspected once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data import cache
from fedgraft.data.images import decode, inspect
from fedgraft.data.inspected import FileState, inspected
from fedgraft.data.notes import counted
from fedgraft.data.samples import Image, Images, Indices
from fedgraft.errors import DataError


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
    digests, faults = inspected(root, files, cache.digest_of("files-1", str(root.resolve()), what), inspect)
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
