"""The processes of one Flower run, and the certainty that none of them stays."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, cast

from fedgraft.errors import LaunchError
from fedgraft.simulation import flower_keeper

_LONGEST_BASE = 20  # characters; Ray's sockets lie 83 deeper and Linux takes 107 in all


class Processes:
    """Starts processes through the keeper, hears of their end, and ends them all; a context manager."""

    def __init__(self, folder: Path, environment: Mapping[str, str], log_file: Path) -> None:
        """Start the keeper.

        Args:
            folder: the run's temporary folder, which the keeper removes at the end; `folder/work` must exist.
            environment: the whole environment of the processes.
            log_file: where all that they print is appended.
        """
        if os.name == "nt":
            raise LaunchError("the 'flower' runtime needs Linux or macOS; use the 'inline' runtime (--runtime inline)")
        self._ended: dict[str, int] = {}
        self._buffered = b""
        with log_file.open("ab") as log:
            self._keeper = subprocess.Popen(
                # -I: neither the working folder nor PYTHONPATH; -S: it needs the standard library only
                [sys.executable, "-I", "-S", flower_keeper.__file__, str(folder), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder / "work",  # empty: Flower and Ray import from their working folder first
                env=dict(environment),
                start_new_session=True,  # Ctrl-C in the terminal is for us; we then end the rest in order
            )
        self._folder = folder
        self._commands = cast("IO[bytes]", self._keeper.stdin)  # they are pipes, as asked for above
        self._events = cast("IO[bytes]", self._keeper.stdout)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process; its end will be reported under `name`."""
        self._ended.pop(name, None)
        self._commands.write(json.dumps({"name": name, "command": list(command)}).encode() + b"\n")
        self._commands.flush()

    def ended(self, name: str, wait_seconds: float = 0.0) -> int | None:
        """Return a process's exit code (negative: the signal), or None while it runs.

        Args:
            name: as given to `start`.
            wait_seconds: wait at most so long for any process's end to be reported.

        Raises:
            LaunchError: the keeper itself is gone.
        """
        if name not in self._ended and select.select([self._events], [], [], wait_seconds)[0]:
            received = os.read(self._events.fileno(), 65536)
            if not received:
                raise LaunchError(
                    "the process that keeps Flower's processes was killed; the run is lost, start it again "
                    "with --resume"
                )
            *lines, self._buffered = (self._buffered + received).split(b"\n")
            for line in lines:
                event = json.loads(line)
                self._ended[event["name"]] = event["exit_code"]
        return self._ended.get(name)

    def close(self) -> None:
        """End every process and remove the temporary folder; goes on by itself should we be interrupted."""
        with contextlib.suppress(BrokenPipeError):
            self._commands.close()
        self._keeper.wait(timeout=60)
        self._events.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # the keeper has done it, unless it was killed

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_folder() -> Path:
    """Make a temporary folder for one run: `home` for Flower, `work` as the empty working folder.

    It is readable by this user only and lies at a short path, because Ray keeps Unix sockets in it.
    """
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="fg-", dir=base if len(base) <= _LONGEST_BASE else "/tmp"))
    try:
        (folder / "home").mkdir()
        (folder / "work").mkdir()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder
