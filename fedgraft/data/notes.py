"""Plain lines about what was left out."""

from __future__ import annotations

from collections.abc import Sequence

from fedgraft.errors import listed


def counted(names: Sequence[str], one: str, several: str) -> list[str]:
    """Return the line `2 images left out: a.png, b.png`, worded for one or several, or nothing for no names."""
    return [f"{len(names):,} {one if len(names) == 1 else several}: {listed(names, 5)}"] if names else []
