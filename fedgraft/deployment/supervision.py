"""The processes of a site or a server: started in order, started again when they end, ended together.

One thread, so that it can start processes safely at any time; what they print goes into one log.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from fedgraft.errors import LaunchError

PUMP_SECONDS = 0.1
START_SECONDS = 60.0
STOP_SECONDS = 5.0
"""After SIGTERM, before SIGKILL."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 15.0
"""Before a process is started again: doubled each time, up to the longest."""
STEADY_SECONDS = 60.0
"""A process that lived so long has recovered; the next wait is the first again."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)\s*:?\s+", re.IGNORECASE)
_NOISE = re.compile(r"uvicorn\.(access|error)\]|ControlServicer\.List|lifespan|application startup|EXPERIMENTAL")
"""Lines that say nothing to whoever runs a site or a server."""


@dataclass(frozen=True)
class Program:
    """A process that is to run as long as its supervisor does.

    Attributes:
        name: in the log.
        command: what is started.
        environment: its whole environment.
        user: Unix user and group id to run as; None: the supervisor's own.
        ready: tells whether it has come up; the next program is started then.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    user: tuple[int, int] | None = None
    ready: Callable[[], bool] | None = None


@dataclass
class _Running:
    """A program and its present process."""

    program: Program
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    again_at: float = 0.0
    wait_seconds: float = FIRST_WAIT_SECONDS
    buffered: bytes = b""
    last_lines: list[str] = field(default_factory=list)


class Supervisor:
    """Keeps programs running until it is asked to stop; a context manager that ends them all.

    Args:
        log: where their lines go.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._programs: list[_Running] = []
        self._handlers: dict[signal.Signals, Any] = {}
        self.stopping = False

    def start(self, program: Program) -> None:
        """Start a program and wait until it is ready.

        Raises:
            LaunchError: it ended, or was not ready in time; with what it said last.
        """
        self.start_together([program])

    def start_together(self, programs: Sequence[Program]) -> None:
        """Start programs that do not need each other, and wait until all are ready.

        Raises:
            LaunchError: one ended, or was not ready in time; with what it said last.
        """
        started = [_Running(program) for program in programs]
        self._programs += started
        for running in started:
            self._launch(running)
        deadline = time.monotonic() + START_SECONDS
        for running in started:
            while not self.stopping and running.program.ready is not None and not running.program.ready():
                self._pump()
                self._check_start(running, deadline)

    def _check_start(self, running: _Running, deadline: float) -> None:
        code = running.process.poll() if running.process else None
        if code is None and time.monotonic() < deadline:
            return
        self._pump()
        what = f"ended with {code}" if code is not None else f"was not ready within {START_SECONDS:g} s"
        said = "; ".join(running.last_lines[-3:]) or "it said nothing"
        raise LaunchError(f"the process '{running.program.name}' {what}: {said}")

    def run(self, on_turn: Callable[[], None] | None = None) -> None:
        """Keep the programs running until SIGTERM or SIGINT.

        Args:
            on_turn: called about ten times a second.
        """
        while not self.stopping:
            self.turn()
            if on_turn is not None:
                on_turn()

    def turn(self) -> None:
        """Take what the programs said, and start again those that have ended and waited."""
        self._pump()
        now = time.monotonic()
        for running in self._programs:
            if running.process is None:
                if now >= running.again_at and not self.stopping:
                    self._launch(running)
            elif (code := running.process.poll()) is not None:
                self._ended(running, code, now)

    def process_ids(self) -> dict[str, int]:
        """Return the ids of the present processes, by the names of their programs."""
        return {running.program.name: running.process.pid for running in self._programs if running.process}

    def stop(self) -> None:
        """End all programs: ask each, the last one first, then kill."""
        self.stopping = True
        for running in reversed(self._programs):
            if running.process is not None and running.process.poll() is None:
                running.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        while any(running.process and running.process.poll() is None for running in self._programs):
            self._pump()
            if time.monotonic() > deadline:
                for running in self._programs:
                    if running.process is not None and running.process.poll() is None:
                        running.process.kill()
                        running.process.wait()
        for running in self._programs:
            self._close(running)
            if running.process is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(running.process.pid, signal.SIGKILL)  # what it had started itself, in its own session
        self._programs.clear()

    def __enter__(self) -> Supervisor:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._handlers[number] = signal.signal(number, self._asked_to_stop)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._selector.close()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _asked_to_stop(self, number: int, _: object) -> None:
        self._log.info("asked to stop by %s", signal.Signals(number).name)
        self.stopping = True

    def _launch(self, running: _Running) -> None:
        program = running.program
        credentials = {}
        if program.user is not None:
            credentials = {"user": program.user[0], "group": program.user[1], "extra_groups": []}
        try:
            running.process = subprocess.Popen(
                list(program.command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(program.environment),
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor, which then ends them in order
                preexec_fn=_die_with_parent,
                **credentials,  # type: ignore[call-overload]
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise LaunchError(f"can't start the process '{program.name}': {error}") from error
        running.started = time.monotonic()
        output = self._output(running)
        os.set_blocking(output.fileno(), False)
        self._selector.register(output, selectors.EVENT_READ, running)

    def _ended(self, running: _Running, code: int, now: float) -> None:
        self._pump()
        self._close(running)
        if now - running.started > STEADY_SECONDS:
            running.wait_seconds = FIRST_WAIT_SECONDS
        how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
        text = "'%s' %s; it is started again in %.1f s"
        self._log.warning(text, running.program.name, how, running.wait_seconds)
        running.process, running.again_at = None, now + running.wait_seconds
        running.wait_seconds = min(2 * running.wait_seconds, LONGEST_WAIT_SECONDS)

    def _close(self, running: _Running) -> None:
        if running.process is not None:
            output = self._output(running)
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(output)
            output.close()

    @staticmethod
    def _output(running: _Running) -> IO[bytes]:
        if running.process is None or running.process.stdout is None:
            raise LaunchError(f"the process '{running.program.name}' has no output")
        return running.process.stdout

    def _pump(self) -> None:
        """Copy what the programs have said into the log."""
        if not self._selector.get_map():
            time.sleep(PUMP_SECONDS)
            return
        for key, _ in self._selector.select(PUMP_SECONDS):
            running: _Running = key.data
            with contextlib.suppress(BlockingIOError, ValueError):
                received = os.read(key.fd, 1 << 16)
                if not received:
                    self._selector.unregister(key.fileobj)
                    continue
                *lines, running.buffered = (running.buffered + received).split(b"\n")
                for line in lines:
                    self._say(running, line.decode(errors="replace"))

    def _say(self, running: _Running, line: str) -> None:
        text = _COLOUR.sub("", line).strip()
        level = _LEVEL.match(text)
        text = _LEVEL.sub("", text)
        if not text.strip(" :"):
            return
        running.last_lines = [*running.last_lines[-19:], text]
        name = (level[1] if level else "info").upper().replace("WARNING", "WARN")
        name = "DEBUG" if _NOISE.search(text) else name
        number = {"DEBUG": 10, "INFO": 20, "WARN": 30, "ERROR": 40, "CRITICAL": 50}[name]
        self._log.log(number, "%s", text, extra={"process_name": running.program.name})


def _die_with_parent() -> None:
    """Have the kernel end this process should the supervisor be killed."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
