"""Runs side by side: the work is shared out among workers, which here are processes of this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import fedgraft
from scenarios.sweep.bench import Listener, Message, Task

ROOT = Path(fedgraft.__file__).resolve().parent.parent
"""The folder from which this process imports FedGraft; workers are to import the same."""

GRACE_SECONDS = 5.0


class Worker(Protocol):
    """Who makes runs, one at a time, and puts what it says of them into an inbox."""

    task: Task | None
    """What it is at; None: nothing, it can be given more."""
    blameless: bool
    """Whether what ends it has nothing to do with the run that it is at, so that another should go on with that."""

    def give(self, task: Task) -> None:
        """Have it make a run."""

    def death(self) -> str:
        """Return what ended it, once it has ended, in words."""

    def end(self) -> None:
        """End it; a run that it was making can be gone on with."""


Inbox: TypeAlias = "queue.SimpleQueue[tuple[Worker, dict[str, Any] | None]]"
"""Messages of workers, each with its worker; None in a message's place says that the worker ended."""


class WorkerProcess:
    """One process of this machine, and the task that it is at.

    Args:
        inbox: where its messages go.
        log: what it prints beside its messages.
    """

    blameless = False  # most likely the run itself ended it: of too little memory, or in code of the user's

    def __init__(self, inbox: Inbox, log: Path) -> None:
        self.task: Task | None = None
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with log.open("ab") as errors:
            # -P: the working folder may hold packages of our names.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "scenarios.sweep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        self._listener = threading.Thread(target=self._listen, args=(inbox,), daemon=True)
        self._listener.start()

    def give(self, task: Task) -> None:
        """Have the process make a run."""
        self.task = task
        line = json.dumps(dataclasses.asdict(task)) + "\n"
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it died: its end is heard of soon
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()

    def _listen(self, inbox: Inbox) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                with contextlib.suppress(ValueError):  # the last line of a process that was killed
                    inbox.put((self, json.loads(line)))
        inbox.put((self, None))

    def death(self) -> str:
        """Return what ended the process, once it has ended, in words."""
        code = self._process.wait()
        if code >= 0:
            return f"its process ended with exit code {code}"
        name = signal.Signals(-code).name
        likely = "; most likely there was too little memory: lower --jobs" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{likely}"

    def end(self) -> None:
        """End the process, which it does when its input ends; a run that it was making can be gone on with."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def make_in_workers(tasks: Sequence[Task], jobs: int, listener: Listener, log: Path) -> None:
    """Make runs in several processes of this machine.

    Args:
        tasks: in the order in which they are begun.
        jobs: how many processes.
        listener: called with each message; if it raises, the workers are ended.
        log: what workers print beside their messages.
    """
    try:
        share_out(tasks, jobs, listener, lambda inbox: WorkerProcess(inbox, log))
    finally:
        if log.exists() and not log.stat().st_size:
            log.unlink()


def share_out(
    tasks: Sequence[Task], number: int, listener: Listener, start: Callable[[Inbox], Worker], *, replace: bool = True
) -> None:
    """Give tasks to workers as these become free, and pass on what they say.

    A task whose worker ended through no fault of the task's is given to another, once.

    Args:
        tasks: in the order in which they are begun.
        number: of workers.
        listener: called with each message; if it raises, the workers are ended.
        start: starts a worker.
        replace: start another for one that ended; otherwise only where none is left.
    """
    waiting = deque(tasks)
    inbox: Inbox = queue.SimpleQueue()
    workers: list[Worker] = []
    moved: set[str] = set()
    try:
        for _ in range(min(number, len(waiting))):
            workers.append(start(inbox))
            workers[-1].give(waiting.popleft())
        while any(worker.task is not None for worker in workers):
            worker, message = _next(inbox)
            if message is None:
                workers.remove(worker)
                waiting.extendleft(_left_behind(worker, moved, listener))
                if waiting and (replace or not workers):
                    workers.append(start(inbox))
            else:
                _pass_on(worker, message, listener)
            for idle in workers:
                if idle.task is None and waiting:
                    idle.give(waiting.popleft())
    finally:
        for worker in workers:
            worker.end()


def _left_behind(worker: Worker, moved: set[str], listener: Listener) -> list[Task]:
    """Say what became of the task of a worker that ended; return it if another is to go on with it."""
    worker.end()
    task = worker.task
    if task is None:
        return []
    if worker.blameless and task.id not in moved:
        moved.add(task.id)  # once: what takes a second machine with it is at fault itself
        listener(task.id, {"kind": "moved", "why": worker.death()})
        return [task]
    listener(task.id, {"kind": "failed", "error": worker.death()})
    return []


def _next(inbox: Inbox) -> tuple[Worker, dict[str, Any] | None]:
    while True:  # short waits, so that Ctrl-C is heard
        with contextlib.suppress(queue.Empty):
            return inbox.get(timeout=0.2)


def _pass_on(worker: Worker, message: dict[str, Any], listener: Listener) -> None:
    told: Message = {key: value for key, value in message.items() if key != "task"}
    if worker.task is None or message.get("task") != worker.task.id:
        return
    identifier = worker.task.id
    if told["kind"] in ("finished", "failed"):
        worker.task = None
    listener(identifier, told)
