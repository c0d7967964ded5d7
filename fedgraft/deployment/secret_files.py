"""Writing files that only their owner may read, and such as anybody may."""

from __future__ import annotations

import os
from pathlib import Path

from fedgraft.errors import StoreError


def write_private(path: Path, data: bytes) -> None:
    """Write a file that nobody but its owner can read, at no moment.

    Raises:
        StoreError: it can't be written.
    """
    _write(path, data, 0o600)


def write_public(path: Path, data: bytes) -> None:
    """Write a file that others may read.

    Raises:
        StoreError: it can't be written.
    """
    _write(path, data, 0o644)


def private_folder(path: Path) -> Path:
    """Make a folder, and those above it, for their owner alone; return it.

    Raises:
        StoreError: it can't be made.
    """
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"can't make {path}: {error.strerror or error}") from error
    return path


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"can't write {path}: {error.strerror or error}; free space or choose another folder"
        ) from error
