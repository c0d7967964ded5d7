"""Client state of runs that have ended: removed some time after the last request of the run changed it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

SECONDS_A_DAY = 86_400.0


def remove_old_state(folder: Path, days: int, current: str = "") -> list[str]:
    """Remove the state of runs that has not changed for some days, and return their ids.

    Nobody tells a site that a run has ended, so its state's age has to.

    Args:
        folder: `client-state` of the site, with a folder a run.
        days: the age; state that is younger stays.
        current: the run that is being answered, whose state stays whatever its age.
    """
    oldest = time.time() - days * SECONDS_A_DAY
    runs = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    old = sorted(path for path in runs if path.name != current and _changed(path) < oldest)
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in old]


def _changed(folder: Path) -> float:
    """Return when the newest file below a folder, or the folder itself, was changed (seconds since 1970)."""
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
