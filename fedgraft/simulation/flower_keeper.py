"""A small program that starts processes for its parent and outlives it just long enough to end them all.

Flower's simulation is a tree of some ten processes (SuperLink, simulation, Ray's own and its workers), several of
which put themselves into sessions of their own, so that no signal to a process group reaches them. The keeper
adopts every orphan below it (a Linux "child subreaper"), so that the tree under it is the complete list of what
was started. When its standard input closes, which the kernel does however the parent dies, it ends that tree and
removes the run's temporary folder. It imports the standard library only and takes 30 ms to start.

Commands on standard input, one JSON object a line: `{"name": ..., "command": [...]}` starts a process.
Events on standard output: `{"name": ..., "exit_code": ...}` when one ends (negative: the signal that ended it).
The processes write to the keeper's standard error.

Elsewhere than on Linux only the processes started directly are ended; Ray's follow by themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_SECONDS = 1.5  # after SIGTERM, to finish a file that is being written
POLL_SECONDS = 0.05
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def main(folder: str, parent: str) -> None:
    """Serve the commands until the standard input closes, then end everything and remove `folder`."""
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: stopped.append(received))
    _control(_PR_SET_CHILD_SUBREAPER, 1)
    _control(_PR_SET_PDEATHSIG, signal.SIGTERM)  # the pipe's end may live on in a fork of the parent
    processes: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    try:
        buffered = b""
        while not stopped and os.getppid() == int(parent):
            if select.select([0], [], [], POLL_SECONDS)[0]:
                received = os.read(0, 65536)
                if not received:
                    break
                *lines, buffered = (buffered + received).split(b"\n")
                for line in lines:
                    name, process = _start(json.loads(line))
                    processes[process.pid] = (name, process)
            for pid, exit_code in _reap().items():
                if pid in processes:
                    name, process = processes.pop(pid)
                    process.returncode = exit_code
                    print(json.dumps({"name": name, "exit_code": exit_code}), flush=True)
    except BrokenPipeError:
        pass  # the parent is gone
    finally:
        _end_all(set(processes))
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # Popen objects of ended processes have nothing left to say


def _control(option: int, value: int) -> None:
    """Call `prctl` where there is one."""
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


def _start(command: dict[str, object]) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a process that the kernel kills should the keeper itself be killed."""
    argv = [str(part) for part in command["command"]]  # type: ignore[attr-defined]  # a list, from JSON
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=lambda: _control(_PR_SET_PDEATHSIG, signal.SIGKILL),  # the keeper has one thread
    )
    return str(command["name"]), process


def _reap() -> dict[int, int]:
    """Collect every child that has ended, adopted ones too: process id to exit code."""
    ended = {}
    with contextlib.suppress(ChildProcessError):  # no children
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _end_all(started: set[int]) -> None:
    """End every process below this one: ask first, then kill until none is left."""
    asked_at = time.monotonic()
    asked: set[int] = set()
    while True:
        started -= set(_reap())
        remaining = _descendants() or started
        if not remaining or time.monotonic() > asked_at + 15:
            return
        late = time.monotonic() > asked_at + GRACE_SECONDS
        for pid in remaining:
            if late or pid not in asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(pid)
        time.sleep(0.02)


def _descendants() -> set[int]:
    """Return the ids of all processes below this one, from /proc; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we read
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting.extend(below)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
