"""What Flower's processes printed: followed, cleaned, and searched for the reason of a failure."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

import fedgraft.errors

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"^(?P<name>[A-Za-z_][\w.]*)(?:: (?P<text>.*))?$")
_RAY_PREFIX = re.compile(r"^\([^)]*pid=[^)]*\) ?")
_FLOWERS_PREFIX = "Simulation failed with exception: "
_FLOWERS_END = "Simulation raised an exception"
# What Flower says when it knows nothing; the cause stands in the log above it.
_EMPTY_REASONS = (
    "An error was encountered. Ending simulation.",
    "Simulation Runtime crashed.",
    "Task failed with unknown error.",
)


class RunLog:
    """A log file, from the place where this run's part of it begins."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._path = path
        self._begin = path.stat().st_size
        self._echoed = self._begin

    def echo(self) -> None:
        """Copy what is new to the terminal."""
        with self._path.open("rb") as log:
            log.seek(self._echoed)
            new = log.read()
        self._echoed += len(new)
        text = new.decode(errors="replace")
        sys.stderr.write(text if sys.stderr.isatty() else _COLOUR.sub("", text))
        sys.stderr.flush()

    def text(self) -> str:
        """Return this run's part, without colours; empty if somebody has removed the file."""
        if not self._path.exists():
            return ""
        with self._path.open("rb") as log:
            log.seek(self._begin)
            return _COLOUR.sub("", log.read().decode(errors="replace"))

    def clean(self) -> None:
        """Take the colours out of the file; only after its writers have ended."""
        text = self.text()
        with contextlib.suppress(OSError), self._path.open("r+b") as log:
            log.seek(self._begin)
            log.write(text.encode())
            log.truncate()


def reason(details: str, log: str) -> str:
    """Return what went wrong in the words of the exception that the ServerApp raised.

    Flower's details hold the exception's text but not its kind (a KeyError's text is a bare name), and when Ray
    or the ClientApp's import fails, only that something failed. The log holds the tracebacks.

    Args:
        details: Flower's details of the run.
        log: the run's log, without colours.
    """
    text = details.removeprefix(_FLOWERS_PREFIX).strip()
    raised = _raised(log)
    if text in _EMPTY_REASONS:
        # Chained tracebacks begin with the cause; what clients raised earlier, and was borne, does not count.
        at_the_end = _raised(log[log.find(_FLOWERS_END) :]) if _FLOWERS_END in log else raised
        name, text = at_the_end[0] if at_the_end else ("", text)
    else:
        first_line = text.partition("\n")[0]
        name = next((kind for kind, said in reversed(raised) if said == first_line), "")
    if text.startswith("ActorPool is empty"):
        return "a host asks for more of a GPU than Ray finds on this machine; lower the GPUs for each host, or use none"
    kind = name.rpartition(".")[2]
    if not kind or hasattr(fedgraft.errors, kind):  # ours are written for the user, without the kind
        return text
    return f"{kind}: {text}" if text else kind


def _raised(log: str) -> list[tuple[str, str]]:
    """Return (kind, first line of text) of every traceback in the log, in order."""
    found = []
    inside = False
    for line in log.splitlines():
        line = _RAY_PREFIX.sub("", line)
        if line.startswith("Traceback (most recent call last)"):
            inside = True
        elif inside and line and not line[0].isspace():
            inside = False
            if match := _RAISED.match(line):
                found.append((match["name"], match["text"] or ""))
    return found


def tail(log: str, num_lines: int = 20) -> tuple[str, ...]:
    """Return the last lines that say something."""
    return tuple([line for line in log.splitlines() if line.strip()][-num_lines:])
