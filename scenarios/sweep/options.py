"""How a comparison is conducted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """How a comparison is conducted.

    Attributes:
        out: its directory; None: a new one below `comparisons/`, or with `resume` the newest unfinished one.
        resume: go on with it: finished runs stay, failed ones are tried again.
        dry_run: make the plan and the forecast only.
        jobs: processes that make runs side by side; None: what is soonest.
        ray: the address of a Ray cluster that makes the runs: `auto`, `host:port`; None: this machine does.
        verbose: let Flower and Ray log to the terminal.
    """

    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    jobs: int | None = None
    ray: str | None = None
    verbose: bool = False
