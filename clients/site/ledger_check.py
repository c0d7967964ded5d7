"""Reading a whole ledger, and finding every sign that it was changed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from clients.site.ledger_lines import START, Head, LedgerError, Recorded, read_line


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


def head_path(path: Path) -> Path:
    """Return where a ledger's head is kept."""
    return path.with_name(f"{path.name}.head")


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
        found = read_line(text)
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
