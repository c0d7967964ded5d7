"""Whether what lies in the store can be trusted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from fedgraft.errors import StoreError
from fedgraft.features.entry import DamagedEntryError, Entry
from fedgraft.files import write_text

FEATURES, DIGESTS, SIDECAR, VERIFIED = "features.npy", "digests.npy", "entry.json", "verified.json"


def open_checked(folder: Path) -> np.memmap[Any, Any] | None:
    """Return the features of the entry in `folder`, read-only, or None if there is no such folder.

    Raises:
        DamagedEntryError: an entry is there and can't be trusted.
        StoreError: the folder can't be read.
    """
    try:
        entry = Entry.from_json((folder / SIDECAR).read_bytes())
        if entry.key != folder.name:
            raise DamagedEntryError(f"its sidecar names the entry {entry.key[:12]}")
        with (folder / FEATURES).open("rb") as file:
            _check(file, entry, folder / VERIFIED)
            return _mapped(file, entry)
    except FileNotFoundError as error:
        if folder.is_dir():
            raise DamagedEntryError(f"{Path(error.filename).name} is missing") from error
        return None
    except OSError as error:
        raise StoreError(f"can't read {folder}: {error.strerror or error}; check its permissions") from error


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def memo(stat: os.stat_result, entry: Entry) -> str:
    """Return the text of `verified.json`: which file was found good, and against which checksum.

    It changes whenever the file is written to, replaced, moved in from elsewhere or restored from a backup.
    """
    state = {"size": stat.st_size, "mtime": stat.st_mtime_ns, "ctime": stat.st_ctime_ns, "inode": stat.st_ino}
    return json.dumps({**state, "checksum": entry.checksum})


def _check(file: BufferedReader, entry: Entry, memo_path: Path) -> None:
    """Verify the checksum of the features, unless this very file was found good before."""
    found_good = memo(os.fstat(file.fileno()), entry)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if memo_path.read_text(encoding="utf-8") == found_good:
            return
    if hashlib.file_digest(file, "sha256").hexdigest() != entry.checksum:
        raise DamagedEntryError(f"{FEATURES} does not match its checksum")
    with contextlib.suppress(StoreError):  # a store that can't be written is only slower
        write_text(memo_path, found_good)


def _mapped(file: BufferedReader, entry: Entry) -> np.memmap[Any, Any]:
    """Map an .npy file whose shape and dtype must be what the sidecar says."""
    file.seek(0)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the array format")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise DamagedEntryError(f"{FEATURES} is no array file") from error
    if (shape, is_fortran, dtype) != (entry.shape, False, np.dtype(entry.dtype)):
        raise DamagedEntryError(f"{FEATURES} holds {dtype} {shape}, its sidecar says {entry.dtype} {entry.shape}")
    return np.memmap(file, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
