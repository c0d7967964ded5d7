"""What a line of the ledger is: an entry, its number and time, the hash of the line before, and its own."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from fedgraft.errors import FedGraftError
from fedgraft.settings import Settings

SCHEMA = 1
"""Of a ledger's lines."""

START = "0" * 64
"""What the first line names as the hash before it."""

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


class Line(Settings):
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


def read_line(text: bytes) -> tuple[Line, str, str] | None:
    """Return a line, its stated hash, and what is wrong with the two; None if it is no entry at all."""
    try:
        fields = json.loads(text)
        stated = fields.pop("hash")
        line = Line.model_validate_json(json.dumps(fields))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
        return None
    if line.ledger != SCHEMA or not isinstance(stated, str):
        return None
    data, digest = written(line)
    return line, stated, "" if data == text + b"\n" and digest == stated else "was changed after it was written"


def written(line: Line) -> tuple[bytes, str]:
    """Return a line as it stands in the file, and its hash."""
    fields = line.model_dump(mode="json")
    digest = hashlib.sha256(_canonical(fields)).hexdigest()
    return _canonical({**fields, "hash": digest}) + b"\n", digest


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def now() -> str:
    """Return the time (UTC), as lines have it."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
