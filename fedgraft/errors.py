"""Errors that a user can act on: what came, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class FedGraftError(Exception):
    """A fault that the user can mend; the command line prints it without a traceback and exits with 2."""


@dataclass(frozen=True)
class Fault:
    """One fault of a file: the full key, what is wrong, and the line where it stands (from 1).

    `source` names the place where it is not the file that the whole error is about (a file that it extends).
    """

    key: str
    message: str
    line: int | None = None
    source: str | None = None

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line is not None else ""
        place = ", ".join(part for part in (self.source, line) if part)
        place = f"{place}: " if place else ""
        key = f"{self.key}: " if self.key else ""
        return f"{place}{key}{self.message}"


class SettingsError(FedGraftError):
    """A file of settings that can't be used; carries every fault of the file, not only the first."""

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        count = f"{len(self.faults)} fault{'s' if len(self.faults) != 1 else ''}"
        super().__init__("\n".join([f"{source}: {count}", *(f"  {fault}" for fault in self.faults)]))


class ScenarioError(SettingsError):
    """A scenario that can't be used."""


class DataError(FedGraftError):
    """Data that can't be read or that don't make sense for the task."""


class ModelError(FedGraftError):
    """A backbone, its weights, a cut or a head that can't be had."""


class MissingWeightsError(ModelError):
    """Pretrained weights that are not on this machine and can't be fetched now; their name is right."""


class StoreError(FedGraftError):
    """A feature store or a run directory that can't be read or written."""


class WireError(FedGraftError):
    """A record from another process that is refused: wrong protocol, name, shape, dtype or value."""


class TrainingError(FedGraftError):
    """Local training that diverged."""


class LaunchError(FedGraftError):
    """A run whose processes can't be started or kept."""


def listed(names: Iterable[str], limit: int = 20) -> str:
    """Return names as `a, b, c`, cut after `limit` with the number left out."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for a near miss among the valid names (in any case), or an empty string."""
    by_lower = {entry.lower(): entry for entry in reversed(list(valid))}
    found = difflib.get_close_matches(str(name).lower(), list(reversed(by_lower)), n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[found[0]]}'?" if found else ""
