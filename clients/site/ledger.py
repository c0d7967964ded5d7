"""The ledger: what left this site, written down before it is sent, each line bound to the one before it.

A file of JSON lines that is only ever appended to (`chattr +a` suits it). Each line holds the hash of the line before
and its own, over its own text; so an edited, removed, inserted or moved line breaks the chain at its place. The chain
alone can't tell that its last lines are missing: beside it a small file keeps its head, the last number and hash.
Whoever can write both files can write both anew, so copies of heads belong on another machine: each entry's hash is
logged, and `verify` takes a head that was noted earlier.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from clients.site.ledger_check import head_path, verify
from clients.site.ledger_lines import Head, LedgerEntry, LedgerError, Line, now, written
from fedgraft.files import write_text

TORN = b"~"
"""What ends an unfinished line when the next is written: no entry ends so."""


class Ledger:
    """Appends to the ledger of this site.

    Args:
        path: the file; its head lies beside it, `<name>.head`.

    Raises:
        LedgerError: it can't be read, or was tampered with.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.head = Head()
        self._kept: Head | None = None
        self._size = -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise LedgerError(f"the ledger {path} can't be opened: {error.strerror or error}") from error
        try:
            with _locked(self._file):
                self._catch_up()
        except BaseException:
            os.close(self._file)
            raise

    def append(self, entry: LedgerEntry) -> Head:
        """Write down what is about to leave; it is on disk when this returns.

        Raises:
            LedgerError: it can't be written; nothing may be sent then.
        """
        with _locked(self._file):
            torn = self._catch_up()
            line = Line(
                number=self.head.number + 1,
                time=now(),
                entry=entry,
                torn=hashlib.sha256(torn + TORN).hexdigest() if torn else None,
                previous=self.head.hash,
            )
            data, digest = written(line)
            self._keep_head()  # of the line before, if that failed then: it may lag by one line and no more
            try:
                _write_all(self._file, (torn and TORN + b"\n") + data)
                os.fsync(self._file)
                self._size = os.fstat(self._file).st_size
            except OSError as error:
                raise LedgerError(f"the ledger {self.path} can't be written: {error.strerror or error}") from error
            self.head = Head(line.number, digest)
            self._keep_head()
        return self.head

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _keep_head(self) -> None:
        if self._kept != self.head:
            write_text(head_path(self.path), f"{self.head}\n")
            self._kept = self.head

    def _catch_up(self) -> bytes:
        """Read what was written since; return the bytes of an unfinished line.

        Raises:
            LedgerError: the ledger was tampered with.
        """
        if self._size == os.fstat(self._file).st_size:
            return b""
        found = verify(self.path)
        if found.faults:
            raise LedgerError(
                f"the ledger {self.path} was changed: {found.faults[0]}; nothing leaves this site before its owner "
                "has looked into it (fedgraft site ledger verify). To go on with a new one, move both files away"
            )
        self.head, self._kept = found.head, None
        if not found.torn:
            self._size = os.fstat(self._file).st_size
        return found.torn


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


@contextlib.contextmanager
def _locked(file: int) -> Iterator[None]:
    """Keep other processes from appending meanwhile."""
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
