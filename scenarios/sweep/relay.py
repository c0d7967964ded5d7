"""A worker process and what it says, for whoever asks from time to time rather than listens."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

from scenarios.sweep.bench import Task
from scenarios.sweep.workers import Inbox, WorkerProcess


class Relay:
    """Passes tasks on to a worker process; where one dies, its run has failed, and the next task gets another.

    Args:
        log: what the process prints beside its messages.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._inbox: Inbox = queue.SimpleQueue()
        self._process: WorkerProcess | None = None

    def begin(self, task: dict[str, str]) -> None:
        """Have the process make a run."""
        if self._process is None:
            self._process = WorkerProcess(self._inbox, self._log)
        self._process.give(Task(**task))

    def news(self, seconds: float) -> list[dict[str, Any]]:
        """Return what the process has said since, after waiting for at most some seconds for the first word."""
        found: list[dict[str, Any]] = []
        try:
            while True:
                _, message = self._inbox.get(timeout=0.0 if found else seconds)
                found.append(self._ended() if message is None else message)
        except queue.Empty:
            return found

    def _ended(self) -> dict[str, Any]:
        process, self._process = self._process, None
        if process is None or process.task is None:
            return {"kind": "note", "text": "a worker process ended"}
        process.end()
        return {"task": process.task.id, "kind": "failed", "error": process.death()}
