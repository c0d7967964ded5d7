"""Where the runs of a sweep are made: in this process one after another, or in worker processes side by side.

Whoever conducts a sweep gives out tasks and hears of them as messages: `started`, what a run says of itself (`round`,
`note`, `progress`), `moved` with the reason where another worker is to go on with it, and at its end `finished` or
`failed` with an `error`.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fedgraft.errors import FedGraftError
from fedgraft.files import write_text
from fedgraft.progress import listening

TOLD = ("round", "note", "progress", "explain")
"""Events of a run that are passed on; others hold what can't leave the process, or say nothing to whoever waits."""

TRACEBACK_FILE = "traceback.txt"

Message: TypeAlias = Mapping[str, Any]
Listener: TypeAlias = Callable[[str, Message], None]
"""Called with a task's id and a message about it, always in the thread that conducts the sweep."""


@dataclass(frozen=True)
class Task:
    """One run to be made.

    Attributes:
        id: what messages about it are marked with.
        scenario_json: the resolved scenario.
        directory: the run directory, absolute; a run that was begun there goes on.
    """

    id: str
    scenario_json: str
    directory: str


def perform(task: Task, tell: Callable[[Message], None]) -> None:
    """Make a run, here and now; whatever goes wrong with it is told, not raised."""
    from fedgraft.conduct import run_resolved
    from scenarios.schema import Scenario

    def pass_on(event: Mapping[str, Any]) -> None:
        if event["kind"] in TOLD:
            tell(event)

    tell({"kind": "started"})
    try:
        scenario = Scenario.model_validate_json(task.scenario_json)
        begun = (Path(task.directory) / "run.json").exists()
        with listening(pass_on, alone=True):
            run_resolved(scenario, task.directory, resume=begun, pictures=False, keep_data=True)
    except FedGraftError as error:
        tell({"kind": "failed", "error": str(error)})
    except Exception as error:  # a bug of ours or of the user's strategy: it ends this run, not the sweep
        path = Path(task.directory) / TRACEBACK_FILE
        write_text(path, traceback.format_exc())
        tell({"kind": "failed", "error": f"{type(error).__name__}: {error} (traceback: {path})"})
    else:
        tell({"kind": "finished"})


def make_here(tasks: Sequence[Task], listener: Listener) -> None:
    """Make runs in this process, one after another: nothing is loaded twice."""
    for task in tasks:
        perform(task, lambda message, task=task: listener(task.id, message))  # type: ignore[misc]
