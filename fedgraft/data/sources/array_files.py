"""Named arrays on disk: members of one .npz file, or .npy files of one folder; pickled objects are refused."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fedgraft.data.cache import AnyArray
from fedgraft.errors import DataError, nearest

_DAMAGED = (OSError, EOFError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)
"""What numpy raises of files that are cut or changed: in the archive, in its compressed parts, in an array's header."""


class ArrayFiles(Protocol):
    """Arrays by name."""

    @property
    def path(self) -> Path:
        """Where they lie, for a person."""

    @property
    def is_mapped(self) -> bool:
        """Whether `read` maps an array's file in place of reading it whole."""

    def names(self) -> tuple[str, ...]:
        """Return the names of all arrays."""

    def read(self, name: str) -> AnyArray:
        """Return one array."""

    def stamp(self, name: str) -> str:
        """Return a text that changes when the file of an array does."""


def array_files(path: Path) -> ArrayFiles:
    """Return the arrays of an .npz file, or of a folder of .npy files."""
    return Folder(path) if path.is_dir() else Archive(path)


@dataclass(frozen=True)
class Archive:
    """An .npz whose members are read one by one, whole."""

    path: Path
    is_mapped = False

    def names(self) -> tuple[str, ...]:
        """Return the names of the members."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return tuple(stored.files)
        except FileNotFoundError as error:
            siblings = [e.name for e in self.path.parent.iterdir()] if self.path.parent.is_dir() else []
            near = nearest(self.path.name, siblings)
            raise DataError(f"the .npz file {self.path} does not exist{near}") from error
        except (ValueError, AttributeError, TypeError, *_DAMAGED) as error:
            raise DataError(
                f"{self.path} is no .npz file of plain arrays ({error}); write it with numpy.savez(path, images=..., "
                "labels=...)"
            ) from error

    def read(self, name: str) -> AnyArray:
        """Return one member."""
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                return np.asarray(stored[name])
        except ValueError as error:
            raise _pickled(self.path, name) from error
        except _DAMAGED as error:
            raise DataError(f"{self.path}: the array '{name}' is damaged ({error}); write the file again") from error

    def stamp(self, name: str) -> str:
        """Return size and time of the whole file."""
        return _stamp(self.path)


@dataclass(frozen=True)
class Folder:
    """A folder of .npy files, which are mapped into memory: read where and when they are used."""

    path: Path
    is_mapped = True

    def names(self) -> tuple[str, ...]:
        """Return the names of the files, without `.npy`."""
        return tuple(sorted(file.stem for file in self.path.glob("*.npy")))

    def read(self, name: str) -> AnyArray:
        """Return the array of one file, read-only."""
        path = self._file(name)
        try:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        except (OSError, EOFError) as error:
            raise DataError(f"can't read {path}: {error}; write it again with numpy.save") from error
        except ValueError as error:
            if "Python objects" in str(error) or "pickle" in str(error):
                raise _pickled(path, name) from error
            raise DataError(f"{path} is no whole .npy file ({error}); write it again with numpy.save") from error

    def stamp(self, name: str) -> str:
        """Return size and time of the array's file."""
        return _stamp(self._file(name))

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npy"


def _stamp(path: Path) -> str:
    state = path.stat()
    return f"{state.st_size}-{state.st_mtime_ns}"


def _pickled(path: Path, name: str) -> DataError:
    return DataError(
        f"{path}: the array '{name}' holds pickled objects, which are refused as they can run code; "
        "save it as plain numbers or texts (numpy.asarray(values, dtype=str) for texts)"
    )
