"""The runs that a server knows: which there are, which one the beginning of an id names, and to stop one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedgraft.errors import FedGraftError, LaunchError, listed
from fedgraft.submission import read_submission

if TYPE_CHECKING:
    from server.deployment.control import Control, FlowerRun

COMPLETED = "finished:completed"
"""Flower's word for a run that has come to a good end."""

SHOWN = 8
"""Characters of a run's id that are shown; its beginning names it in commands."""


def find(control: Control, run_id: str) -> FlowerRun | None:
    """Return the newest of Flower's runs that carry out a run of ours; None if there is none."""
    for run in control.runs():
        with contextlib.suppress(FedGraftError):
            if read_submission({"scenario": run.submission}).run.run_id.startswith(run_id):
                return run
    return None


@dataclass(frozen=True)
class RunLine:
    """A run of the server, as `fedgraft status` shows it."""

    run: str
    scenario: str
    status: str
    bytes_to_sites: int
    bytes_from_sites: int
    directory: str


def run_lines(control: Control) -> list[RunLine]:
    """Return FedGraft's runs at a server, the newest first; of one that went on after a restart the last part."""
    lines: dict[str, RunLine] = {}
    for run in control.runs():
        with contextlib.suppress(FedGraftError):
            submission = read_submission({"scenario": run.submission})
            facts = submission.run
            if facts.run_id not in lines:
                name = Path(facts.directory).name
                lines[facts.run_id] = RunLine(
                    facts.run_id[:SHOWN], name, run.status, run.bytes_to_sites, run.bytes_from_sites, facts.directory
                )
    return list(lines.values())


def stop(control: Control, run_id: str) -> None:
    """Stop a run by the beginning of FedGraft's id of it.

    Raises:
        LaunchError: there is none, or more than one, or it has ended.
    """
    found = chosen(control, run_id)
    if found.finished:
        raise LaunchError(f"run '{run_id}' has ended already ({found.status})")
    control.stop(found.run_id)


def chosen(control: Control, run_id: str) -> FlowerRun:
    """Return the run that the beginning of an id names.

    Raises:
        LaunchError: it names none, or more than one.
    """
    found: dict[str, FlowerRun] = {}
    for run in control.runs() if run_id else ():
        with contextlib.suppress(FedGraftError):
            identifier = read_submission({"scenario": run.submission}).run.run_id
            if identifier.startswith(run_id):
                found.setdefault(identifier, run)  # the newest of Flower's
    if len(found) > 1:
        raise LaunchError(f"'{run_id}' begins the ids of {listed(sorted(found))}; give more of it")
    if not found:
        raise LaunchError(f"the server knows no run '{run_id}'; `fedgraft status --kit KIT` lists them")
    return next(iter(found.values()))
