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
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from fedgraft.errors import FedGraftError
from fedgraft.files import write_text
from fedgraft.settings import Settings

SCHEMA = 1
"""Of a ledger's lines."""

START = "0" * 64
"""What the first line names as the hash before it."""

TORN = b"~"
"""What ends an unfinished line when the next is written: no entry ends so."""

_HASH = r"^[0-9a-f]{64}$"


class LedgerError(FedGraftError):
    """A ledger that can't be written, or that was tampered with; nothing leaves the site then."""


class LedgerArray(Settings):
    """An array that left: its name, shape and type, never its values."""

    name: str
    shape: tuple[NonNegativeInt, ...]
    dtype: str
    bytes: NonNegativeInt


class LedgerEntry(Settings):
    """What left in one answer."""

    run: str
    """FedGraft's id of the run."""
    scenario: str
    """Name of the scenario, as the server stated it."""
    request: str
    """Flower's type of the message that was answered, such as `train`."""
    round: NonNegativeInt | None = None
    """The round that it was of, if of one."""
    outcome: str = Field(default="answer", pattern=r"^(answer|refusal)$")
    """Whether it was answered; of a refusal only its text left."""
    text: str = ""
    """The text that left with a refusal."""
    facts: tuple[str, ...] = ()
    """Names of the numbers and words that left beside the arrays."""
    arrays: tuple[LedgerArray, ...] = ()
    """The arrays that left."""
    bytes: NonNegativeInt
    """All that left: arrays as packed, and texts."""
    digest: str = Field(pattern=_HASH)
    """sha256 of all that left, so that a copy of it can be recognised."""


class _Line(Settings):
    """A line of the file."""

    ledger: int = SCHEMA
    number: PositiveInt
    time: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
    entry: LedgerEntry
    torn: str | None = Field(default=None, pattern=_HASH)
    """sha256 of an unfinished line before it, which a power failure left; nothing was sent of it."""
    previous: str = Field(pattern=_HASH)


@dataclass(frozen=True)
class Recorded:
    """A line as it was read: its number, when it was written, and what left."""

    number: int
    time: str
    entry: LedgerEntry
    hash: str

    def as_json(self) -> dict[str, Any]:
        """Return it for machines."""
        return {"number": self.number, "time": self.time, **self.entry.model_dump(mode="json"), "hash": self.hash}


@dataclass(frozen=True)
class Head:
    """The end of a chain: how many lines it has, and the hash of the last."""

    number: int = 0
    hash: str = START

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read `number:hash`.

        Raises:
            LedgerError: it is none.
        """
        number, _, digest = text.strip().partition(":")
        if not number.isdecimal() or len(digest) != len(START) or not set(digest) <= set("0123456789abcdef"):
            raise LedgerError(
                f"came '{text.strip()[:80]}' as the head of a ledger; expected number:hash, as it is logged"
            )
        return cls(int(number), digest)


@dataclass(frozen=True)
class Verification:
    """What came of reading a whole ledger.

    Attributes:
        head: where the chain ends.
        faults: each sign of tampering, with its line.
        lines: what could be read.
        torn: bytes of an unfinished last line, of which nothing was sent.
    """

    head: Head
    faults: tuple[str, ...]
    lines: tuple[Recorded, ...]
    torn: bytes = b""


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
            line = _Line(
                number=self.head.number + 1,
                time=_now(),
                entry=entry,
                torn=hashlib.sha256(torn + TORN).hexdigest() if torn else None,
                previous=self.head.hash,
            )
            data, digest = _written(line)
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


def verify(path: Path, noted: Head | None = None) -> Verification:
    """Read a ledger and find every sign that it was changed.

    Args:
        path: the file.
        noted: a head that was noted elsewhere; the ledger must contain it.

    Raises:
        LedgerError: it can't be read.
    """
    chain = _Chain()
    try:
        data = path.read_bytes() if path.exists() else b""
        kept = head_path(path).read_text() if head_path(path).exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"the ledger {path} can't be read: {error}") from error
    *whole, rest = data.split(b"\n")
    for number, text in enumerate(whole, start=1):
        chain.take(number, text)
    chain.end(rest)
    faults = [*chain.faults, *_head_faults(chain, kept)]
    if noted is not None and chain.hash_of(noted.number) != noted.hash:
        faults.append(f"does not contain the noted head {noted.number}:{noted.hash[:12]}…: its end is missing or other")
    return Verification(chain.head, tuple(faults), tuple(chain.lines), b"" if chain.faults else rest)


def _head_faults(chain: _Chain, kept: str | None) -> list[str]:
    """Compare the chain's end with the head that is kept beside it."""
    if kept is None:
        # The head is written after the line, so a failure between the first of both leaves one line without it.
        return [] if chain.head.number <= 1 else ["the file of its head is missing"]
    try:
        head = Head.parse(kept)
    except LedgerError as error:
        return [f"the file of its head holds none: {error}"]
    if chain.head.number - head.number in (0, 1) and chain.hash_of(head.number) == head.hash:
        return []
    return [f"its head was line {head.number}, and the chain ends with line {chain.head.number}: lines are missing"]


class _Chain:
    """Follows the chain from line to line."""

    def __init__(self) -> None:
        self.head = Head()
        self.lines: list[Recorded] = []
        self.faults: list[str] = []
        self._torn: tuple[int, bytes] | None = None

    def hash_of(self, number: int) -> str | None:
        """Return the hash of a line by its number; of line 0 the start."""
        if number == 0:
            return START
        return next((line.hash for line in reversed(self.lines) if line.number == number), None)

    def take(self, place: int, text: bytes) -> None:
        """Check one whole line of the file, by its place from 1."""
        found = _read(text)
        if found is None:
            if self._torn is not None:
                self.faults.append(f"line {self._torn[0]}: no entry of a ledger")
            self._torn = (place, text)
            return
        line, digest, fault = found
        faults = [fault] if fault else []
        came = None if self._torn is None else hashlib.sha256(self._torn[1]).hexdigest()
        if line.torn != came:
            faults.append("the unfinished line before it is not the one that it names")
        if line.number != self.head.number + 1:
            faults.append(f"is number {line.number}, expected {self.head.number + 1}")
        if line.previous != self.head.hash:
            faults.append("does not follow the line before it")
        self.faults += [f"line {place}: {fault}" for fault in faults]
        self._torn = None
        self.head = Head(line.number, digest)
        self.lines.append(Recorded(line.number, line.time, line.entry, digest))

    def end(self, rest: bytes) -> None:
        """Take note of the end: an unfinished line may be the last, but no other."""
        if self._torn is not None:
            self.faults.append(f"line {self._torn[0]}: no entry of a ledger")


def _read(text: bytes) -> tuple[_Line, str, str] | None:
    """Return a line, its stated hash, and what is wrong with the two; None if it is no entry at all."""
    try:
        fields = json.loads(text)
        stated = fields.pop("hash")
        line = _Line.model_validate_json(json.dumps(fields))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
        return None
    if line.ledger != SCHEMA or not isinstance(stated, str):
        return None
    data, digest = _written(line)
    return line, stated, "" if data == text + b"\n" and digest == stated else "was changed after it was written"


def _written(line: _Line) -> tuple[bytes, str]:
    """Return a line as it stands in the file, and its hash."""
    fields = line.model_dump(mode="json")
    digest = hashlib.sha256(_canonical(fields)).hexdigest()
    return _canonical({**fields, "hash": digest}) + b"\n", digest


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


def head_path(path: Path) -> Path:
    """Return where a ledger's head is kept."""
    return path.with_name(f"{path.name}.head")


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
