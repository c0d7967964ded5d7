"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: in one or two words.
        level: `fault`: the site would not work, or not safely; `warning`: it works, and somebody should know.
        text: what was found.
        advice: what to do; empty where there is nothing to do.
    """

    what: str
    level: Level
    text: str
    advice: str = ""


def ok(what: str, text: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(what, "ok", text)


def warning(what: str, text: str, advice: str) -> Finding:
    """Return a finding that somebody should know of."""
    return Finding(what, "warning", text, advice)


def fault(what: str, text: str, advice: str) -> Finding:
    """Return a finding that keeps the site from working, or from being safe."""
    return Finding(what, "fault", text, advice)
