"""Where files go, and how they are written: to a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fedgraft.errors import StoreError


def cache_directory() -> Path:
    """Return this machine's cache, `$XDG_CACHE_HOME/fedgraft` or `~/.cache/fedgraft` (not created).

    A relative `XDG_CACHE_HOME` is ignored, as the XDG specification says; it would be another cache in each folder.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "fedgraft"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path` at once, on failure it is removed.

    A reader sees the old file or the new one, never a part of it, also after a crash or on a full disk.

    Raises:
        StoreError: the folder can't be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes 0600; a result file is as readable as any other
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"can't write {path}: {reason}; free space or choose another folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def append_text(path: Path, text: str) -> None:
    """Append to a text file (UTF-8).

    Raises:
        StoreError: the file can't be written or the disk is full.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"can't write {path}: {error.strerror or error}; free space") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    write_bytes(path, text.encode())
