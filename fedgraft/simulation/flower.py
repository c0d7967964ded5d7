"""FedGraft's apps in Flower's own simulation runtime: a SuperLink and Ray, for one run, on this machine.

What `flwr run .` does, without what it leaves behind and without its traps: the SuperLink has its own home, an
empty working folder (Ray's actors import client code from there first), and a free port; nothing is installed,
asked for or reported over the network; and when the run is over, however it ends, so are all its processes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fedgraft.errors import LaunchError
from fedgraft.simulation.app_folder import app_folder
from fedgraft.simulation.flower_log import RunLog, reason, tail
from fedgraft.simulation.flower_machine import Actors, divide, processes_environment, reserved_port
from fedgraft.simulation.flower_processes import Processes, run_folder

if TYPE_CHECKING:
    from fedgraft.simulation.flower_control import SuperLink

POLL_SECONDS = 0.1
START_SECONDS = 60.0  # a SuperLink is up in 1.5 s; a machine under heavy load needs its time
_ATTEMPTS = 3  # to start a SuperLink, each on another port

_SUPERLINK = "from flwr.superlink.cli import flower_superlink; flower_superlink()"
# The simulation's imports (flwr and ray, 2 s) go on while the SuperLink starts; its task comes as a file.
_SIMULATION = """
import os, sys, time
import ray
from flwr.simulation.app import flwr_simulation
while not os.path.exists(sys.argv[sys.argv.index("--token-file") + 1]):
    time.sleep(0.02)
flwr_simulation()
"""


@dataclass(frozen=True)
class FlowerOutcome:
    """How a run in Flower's simulation ended."""

    status: Literal["completed", "failed", "stopped"]
    details: str
    """Why it failed, as text for the user; empty when it completed."""
    run_id: int
    """Flower's id of the run."""
    log_tail: tuple[str, ...]
    """The last lines of the log."""
    start_seconds: float
    """From the call to the moment when the simulation process got its task."""
    total_seconds: float
    """From the call to the end of every process."""


def run_in_flower(
    run_config: Mapping[str, str],
    num_hosts: int,
    cpus_per_host: float,
    gpus_per_host: float = 0.0,
    *,
    verbose: bool = False,
    on_poll: Callable[[], None] | None = None,
    log_file: Path,
    app: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> FlowerOutcome:
    """Run an app in Flower's simulation runtime and wait for its end.

    Every process started here has ended when this returns or raises, KeyboardInterrupt included; they also end
    when this process is killed.

    Args:
        run_config: values for keys that the app declares; long JSON texts are fine.
        num_hosts: number of simulated SuperNodes, at least 1.
        cpus_per_host: CPUs for each of them; decides how many work at once, and the threads of each.
        gpus_per_host: share of a GPU for each of them.
        verbose: copy what Flower prints to the terminal as well.
        on_poll: called about every 0.1 s while the run goes on.
        log_file: all that Flower, Ray and the apps print is appended to it.
        app: a Flower app folder; by default one made of FedGraft itself.
        environment: variables for the processes, beside our own and those of this process.

    Raises:
        LaunchError: the run could not be started: what the SuperLink or the app folder lacks.
    """
    began = time.monotonic()
    actors = divide(num_hosts, cpus_per_host, gpus_per_host)
    log = RunLog(log_file)
    folder = run_folder()
    variables = processes_environment(folder, cpus_per_host, {**os.environ, **(environment or {})})

    def poll() -> None:
        if verbose:
            log.echo()
        if on_poll is not None:
            on_poll()

    try:
        with contextlib.ExitStack() as stack:
            processes = stack.enter_context(Processes(folder, variables, log_file))
            run = _Run(folder, processes, poll, stack)
            run_id = run.start(app or app_folder(folder), run_config, actors)
            start_seconds = time.monotonic() - began
            status, details = run.wait(run_id)
    except LaunchError as error:
        raise LaunchError(f"{error}\nwhat Flower printed stands in {log_file}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        log.clean()
    text = log.text()
    return FlowerOutcome(
        status,
        "" if status == "completed" else reason(details, text),
        run_id,
        tail(text),
        start_seconds,
        time.monotonic() - began,
    )


class _Run:
    """One run: its SuperLink, its simulation process, and the questions to them."""

    def __init__(
        self, folder: Path, processes: Processes, poll: Callable[[], None], stack: contextlib.ExitStack
    ) -> None:
        self._folder = folder
        self._stack = stack
        self._processes = processes
        self._poll = poll
        self._secret = secrets.token_bytes(32)
        (folder / "secret").write_bytes(self._secret)  # the folder is ours alone (0700)

    def start(self, app: Path, run_config: Mapping[str, str], actors: Actors) -> int:
        """Start the SuperLink and the simulation process, give it the run, and return the run's id."""
        for _ in range(_ATTEMPTS):
            with reserved_port() as port:
                superlink = self._start_processes(port.getsockname()[1])
            if superlink is not None:
                break
        else:
            raise LaunchError(f"Flower's SuperLink did not start in {_ATTEMPTS} attempts")
        self._superlink = superlink
        run_id = superlink.submit(app, run_config, actors)
        deadline = time.monotonic() + START_SECONDS
        while (token := superlink.acquire(run_id)) is None:
            if time.monotonic() > deadline:
                raise LaunchError(f"Flower's SuperLink did not hand out the run within {START_SECONDS:.0f} s")
            self._processes.ended("superlink", POLL_SECONDS)
            self._poll()
        written = self._folder / "token.part"
        written.write_text(token)
        written.rename(self._token)  # at once: the other side waits for this name
        return run_id

    def _start_processes(self, port: int) -> SuperLink | None:
        """Start both, and wait until the SuperLink answers; None if it ended, as it does when the port is taken."""
        address = f"127.0.0.1:{port}"
        where = ["--host", "127.0.0.1", "--port", str(port)]
        how = ["--insecure", "--simulation", "--isolation", "process"]
        secret = ["--superexec-auth-secret-file", str(self._folder / "secret")]
        # -P: the working folder is no place to import from
        self._processes.start("superlink", [sys.executable, "-P", "-c", _SUPERLINK, *how, *where, *secret])
        self._token = self._folder / f"token-{port}"
        self._simulation = f"simulation-{port}"
        task = ["--runtime-api-address", address, "--insecure", "--token-file", str(self._token)]
        self._processes.start(self._simulation, [sys.executable, "-P", "-c", _SIMULATION, *task])

        from fedgraft.simulation.flower_control import SuperLink  # 1 s of imports, while those two start

        superlink = self._stack.enter_context(contextlib.closing(SuperLink(address, self._secret)))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._processes.ended("superlink", POLL_SECONDS / 2) is not None:
                return None
            if superlink.healthy():
                return superlink
            self._poll()
        raise LaunchError(f"Flower's SuperLink did not answer within {START_SECONDS:.0f} s")

    def wait(self, run_id: int) -> tuple[Literal["completed", "failed", "stopped"], str]:
        """Wait for the simulation process's end, and return the run's real status and Flower's details.

        The process reports to the SuperLink before it ends: the process's end says when to ask, and that there
        will be no answer if it was killed.
        """
        while True:
            exit_code = self._processes.ended(self._simulation, POLL_SECONDS)
            self._poll()
            if exit_code is not None:
                break
            if self._processes.ended("superlink") is not None:
                return "failed", "Flower's SuperLink ended before the run did"
        status, details = self._superlink.status(run_id)
        if status == "finished:completed":
            return "completed", ""
        if status == "finished:stopped":
            return "stopped", details or "the run was stopped"
        if status == "finished:failed":
            return "failed", details
        if exit_code < 0:
            memory = " (the machine may have run out of memory)" if exit_code == -9 else ""
            return "failed", f"the simulation process was ended by signal {-exit_code}{memory}"
        return "failed", f"the simulation process ended with exit code {exit_code} and no report"
