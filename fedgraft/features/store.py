"""The feature store: content-addressed, memory-mapped, atomic, shared by processes.

An entry is a folder named by its key, with `features.npy`, `digests.npy` (which sample each row is) and
`entry.json` (see `entry.py`). It is written under a hidden name and renamed when whole, under a lock of its
key, so that several processes compute it once and a killed writer leaves nothing that could be trusted.

The checksum of an entry is verified when it is first opened and after every change of its file: `verified.json`
remembers size, times and inode of the file that was found good, so that a warm start does not read gigabytes.
What that does not see is a disk that changes bits under an unchanged file; `verify` reads all of it again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import StoreError
from fedgraft.features.checks import DIGESTS, FEATURES, SIDECAR, VERIFIED, checksum, memo, open_checked
from fedgraft.features.entry import SCHEMA, DamagedEntryError, Entry, Origin, UnknownSchemaError, entry_key
from fedgraft.features.locks import locked
from fedgraft.features.rows import WRITING_ADVICE, RowWriter
from fedgraft.files import cache_directory
from fedgraft.progress import report

Fill = Callable[[RowWriter], None]
"""Computes an entry: allocates its rows and writes each of them."""


@dataclass(frozen=True)
class StoredEntry:
    """One line of the store's listing; `entry` is None, and `fault` says why, where it can't be read."""

    key: str
    entry: Entry | None
    fault: str
    num_bytes: int
    last_used: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Cleared:
    """What `clear` did; `num_busy` entries were left because a process is writing them."""

    num_entries: int
    num_bytes: int
    num_busy: int


class FeatureStore:
    """Entries of features under one folder, by default `$XDG_CACHE_HOME/fedgraft/features`.

    Args:
        root: the store's folder; it is made when something is written.
        note: receives one line when an entry is not trusted, or when another process is waited for; by default
            it goes to whoever listens to progress.
    """

    def __init__(self, root: Path | None = None, note: Callable[[str], None] | None = None) -> None:
        self.root = root if root is not None else cache_directory() / "features"
        self._note = note if note is not None else _report_note

    def get(self, key: str) -> np.memmap[Any, Any] | None:
        """Return the features `(num_samples, num_features)` of an entry, read-only, or None.

        A damaged entry, or one of another version, is removed with a note and None is returned.

        Raises:
            StoreError: the entry is there and can't be read.
        """
        try:
            return self._open(key)
        except DamagedEntryError as fault:
            # Another process may be replacing the entry at this moment: only under the lock is a fault one.
            try:
                with self._locked(key, wait=False) as is_ours:
                    return self._open_or_drop(key) if is_ours else None
            except OSError:  # a store that can't be written
                self._note(f"stored features {key[:12]} are damaged ({fault}) and can't be removed")
                return None

    def get_or_fill(
        self, origin: Origin, dtype: str, sample_digests: NDArray[np.uint8], fill: Fill
    ) -> np.memmap[Any, Any]:
        """Return the features of these samples; call `fill` if they are not stored, once among all processes.

        Args:
            origin: where the features come from.
            dtype: `float32` or `float16`.
            sample_digests: `(num_samples, 16)` digests of the inputs.
            fill: computes the rows. What it raises goes on, and nothing is stored.

        Raises:
            StoreError: the store can't be written.
        """
        key = entry_key(origin.backbone_key, dtype, sample_digests)
        found = self.get(key)
        if found is not None:
            return found
        with contextlib.ExitStack() as stack:
            with self._advising():
                self.root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(self._locked(key, wait=True))
                found = self._open_or_drop(key)
                if found is not None:
                    return found
                self._sweep(own=key)
            self._write(key, origin, dtype, sample_digests, fill)
            written = self._open_or_drop(key)
        if written is None:
            raise StoreError(f"features written to {self.root / key} can't be read back; check the disk")
        return written

    def verify(self, key: str) -> bool:
        """Read an entry's whole file again and return whether it is as it was written; drop it if not."""
        with contextlib.suppress(OSError):
            (self.root / key / VERIFIED).unlink()
        return self.get(key) is not None

    def sharing(self, backbone_key: str, dtype: str) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Yield `(key, sample digests)` of every entry whose rows may be copied, the largest first."""
        candidates = [
            stored.entry
            for stored in self.entries()
            if stored.entry is not None
            and stored.entry.origin.backbone_key == backbone_key
            and stored.entry.dtype == dtype
        ]
        for entry in sorted(candidates, key=lambda entry: (-entry.shape[0], entry.key)):
            path = self.root / entry.key / entry.digests_file
            with contextlib.suppress(OSError, ValueError):  # removed meanwhile, or damaged: rows are computed
                if checksum(path) == entry.digests_checksum:
                    yield entry.key, np.load(path, allow_pickle=False)

    def entries(self) -> list[StoredEntry]:
        """Return what the store holds, the last used first; reads sidecars only."""
        try:
            folders = [path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith(".")]
        except FileNotFoundError:
            return []
        found = [stored for path in folders if (stored := _stored(path)) is not None]
        return sorted(found, key=lambda stored: (-stored.last_used, stored.key))

    def clear(self, older_than_days: float | None = None, backbone: str | None = None) -> Cleared:
        """Remove entries, except those that a process is writing at this moment.

        Args:
            older_than_days: only entries that were last used longer ago than this.
            backbone: only entries of the backbone of this name. Damaged entries and those of another version
                name none, so that only a call without it removes them.

        Raises:
            StoreError: the store can't be written.
        """
        num_entries = num_bytes = num_busy = 0
        oldest = None if older_than_days is None else time.time() - older_than_days * 86_400
        with self._advising():
            self._sweep()
            for stored in self.entries():
                if oldest is not None and stored.last_used >= oldest:
                    continue
                if backbone is not None and (stored.entry is None or stored.entry.origin.backbone != backbone):
                    continue
                with self._locked(stored.key, wait=False) as is_ours:
                    if is_ours:
                        self._remove(stored.key)
                        num_entries, num_bytes = num_entries + 1, num_bytes + stored.num_bytes
                    else:
                        num_busy += 1
        return Cleared(num_entries, num_bytes, num_busy)

    def _open(self, key: str) -> np.memmap[Any, Any] | None:
        """Return a good entry's features and remember that it was used; None if it is not there."""
        features = open_checked(self.root / key)
        if features is not None:
            with contextlib.suppress(OSError):  # a store that can't be written is still of use
                os.utime(self.root / key / SIDECAR)
        return features

    def _open_or_drop(self, key: str) -> np.memmap[Any, Any] | None:
        """Like `_open`, under the entry's lock: what can't be trusted is removed with a note."""
        try:
            return self._open(key)
        except UnknownSchemaError as error:
            self._note(f"stored features {key[:12]} are not used: {error}; they are computed again")
        except DamagedEntryError as error:
            self._note(f"stored features {key[:12]} are damaged: {error}; they are computed again")
        self._remove(key)
        return None

    def _write(self, key: str, origin: Origin, dtype: str, digests: NDArray[np.uint8], fill: Fill) -> None:
        """Write an entry under a hidden name and rename it; on any fault nothing stays."""
        with self._advising():
            temporary = Path(tempfile.mkdtemp(dir=self.root, prefix=f".{key}.", suffix=".tmp"))
        try:
            with self._advising():
                writer = RowWriter(temporary / FEATURES, len(digests), dtype)
            with writer:
                fill(writer)  # outside of `_advising`: a picture that can't be read is no fault of the store
            with self._advising():
                np.save(temporary / DIGESTS, digests, allow_pickle=False)
                entry = Entry(
                    schema=SCHEMA,
                    key=key,
                    origin=origin,
                    dtype=dtype,
                    shape=writer.shape,
                    checksum=checksum(temporary / FEATURES),
                    digests_file=DIGESTS,
                    digests_checksum=checksum(temporary / DIGESTS),
                    created=datetime.now(UTC).isoformat(timespec="seconds"),
                )
                (temporary / SIDECAR).write_text(entry.to_json(), encoding="utf-8")
                found_good = memo((temporary / FEATURES).stat(), entry)
                (temporary / VERIFIED).write_text(found_good, encoding="utf-8")
                for path in (*temporary.iterdir(), temporary):
                    _synchronise(path)
                temporary.chmod(0o777 & ~_umask())  # mkdtemp makes 0700; a cache may be shared by users
                temporary.rename(self.root / key)
                _synchronise(self.root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _remove(self, key: str) -> None:
        """Remove an entry under its lock: renamed first, so that no reader finds half of it."""
        aside = Path(tempfile.mkdtemp(dir=self.root, prefix=f".{key}.", suffix=".tmp"))
        with contextlib.suppress(FileNotFoundError):
            (self.root / key).rename(aside / "removed")
        shutil.rmtree(aside, ignore_errors=True)

    def _sweep(self, own: str = "") -> None:
        """Remove what killed processes left: hidden files whose key nobody holds (`own` is held by us)."""
        for left in [*self.root.glob(".*.tmp"), *self.root.glob(".*.lock")]:
            key = left.name[1:].split(".", 1)[0]
            with contextlib.nullcontext(left.suffix == ".tmp") if key == own else self._locked(key, wait=False) as ok:
                if ok:  # a lock file goes with its lock
                    shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, key: str, wait: bool) -> Iterator[bool]:
        def on_wait() -> None:
            self._note("another process computes the same features; waiting for it")

        with locked(self.root / f".{key}.lock", wait=wait, on_wait=on_wait) as is_ours:
            yield is_ours

    @contextlib.contextmanager
    def _advising(self) -> Iterator[None]:
        """Tell the user what to do if the disk refuses."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise StoreError(f"can't write to the feature store {self.root}: {reason}; {WRITING_ADVICE}") from error


def _report_note(line: str) -> None:
    report("note", text=line)


def _stored(folder: Path) -> StoredEntry | None:
    """Describe one folder of the store; None if it has just been removed."""
    entry, fault = None, ""
    try:
        try:
            entry = Entry.from_json((folder / SIDECAR).read_bytes())
            last_used = (folder / SIDECAR).stat().st_mtime
        except (DamagedEntryError, OSError) as error:
            fault = str(error) if isinstance(error, DamagedEntryError) else f"{SIDECAR} can't be read"
            last_used = folder.stat().st_mtime
        num_bytes = sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        return None
    return StoredEntry(folder.name, entry, fault, num_bytes, last_used)


def _synchronise(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
