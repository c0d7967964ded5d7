"""A connection to Ray for one run: a Ray of our own that ends with the run, or somebody's that is left running.

Ray is started by a thread of its own, so that its processes start while the run prepares its data. The thread
stays for as long as Ray does: Linux ends Ray's processes with the thread that started them, which is also what
ends them should this process be killed. And outside the main thread Ray leaves the signals of this process alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedgraft.errors import LaunchError
from fedgraft.progress import report
from fedgraft.simulation import process_tree
from fedgraft.simulation.forecast import NO_RAY
from fedgraft.simulation.ray_folder import ray_folder
from fedgraft.simulation.ray_lean import lean
from fedgraft.simulation.settings import RayRuntime

GRACE_SECONDS = 5.0
KNOCK_SECONDS = 5.0
_SWITCHES = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else Ray warns of what it will do in a later version
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else it sends the working folder to the actors when started by uv
}

_CONFIG = {"task_events_report_interval_ms": 0}
"""No history of what actors were asked: in Ray's server it grew by 11 kB a round."""


class RaySession:
    """Ray, from `start` to the end of the block; a context manager.

    Args:
        settings: the runtime's.
        verbose: let Ray and the hosts print to the terminal.
    """

    def __init__(self, settings: RayRuntime, verbose: bool) -> None:
        self.settings = settings
        self.own = settings.address is None
        """Whether this Ray ends with the run."""
        self._verbose = verbose
        self._borrowed = False
        self._opened, self._closing = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, num_cpus: int) -> None:
        """Begin to start Ray, or to join the cluster, and return at once; a second call does nothing.

        Args:
            num_cpus: what a Ray of our own is told that this machine has; it keeps accounts of them, and starts as many
                processes for actors at once.
        """
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._keep, args=(num_cpus,), name="fedgraft-ray", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until Ray is there.

        Raises:
            LaunchError: it can't be started or joined.
        """
        while not self._opened.wait(0.2):  # short, so that Ctrl-C is heard
            pass
        if isinstance(self._error, LaunchError):
            raise self._error
        if self._error is not None:
            what = "Ray could not be started"
            if not self.own:
                what = f"the Ray cluster at {self.settings.address!r} could not be joined"
            raise LaunchError(f"{what}: {_first_line(self._error)}") from self._error

    def free_hosts(self) -> int:
        """Return for how many hosts the cluster has room now, at least 1."""
        free = resources(available=True)
        room = free.get("CPU", 0.0) / self.settings.cpus_per_host
        if self.settings.gpus_per_host:
            room = min(room, free.get("GPU", 0.0) / self.settings.gpus_per_host)
        return max(1, int(room))

    def __enter__(self) -> RaySession:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _keep(self, num_cpus: int) -> None:
        """Open Ray, wait for the end of the run, and close Ray: the life of the thread."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._opening(num_cpus))
            except Exception as error:  # Ray raises whatever its parts do; told to whoever waits
                self._error = error
            finally:
                self._opened.set()
            self._closing.wait()

    @contextlib.contextmanager
    def _opening(self, num_cpus: int) -> Iterator[None]:
        try:
            import ray
        except ImportError as error:
            raise LaunchError(f"Ray can't be loaded ({error}); {NO_RAY}") from error
        if ray.is_initialized():
            self.own, self._borrowed = False, True
            yield
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(_tidy())
            if not self._verbose:
                stack.enter_context(_silenced())
            stack.enter_context(self._own(num_cpus) if self.own else self._joined())
            yield

    @contextlib.contextmanager
    def _own(self, num_cpus: int) -> Iterator[None]:
        with ray_folder() as folder, self._started_in(folder, num_cpus):
            yield

    @contextlib.contextmanager
    def _started_in(self, folder: str, num_cpus: int) -> Iterator[None]:
        import ray

        try:
            with lean(forwards_logs=self._verbose):
                ray.init(
                    address="local",  # whatever RAY_ADDRESS says
                    num_cpus=num_cpus,
                    num_gpus=None if self.settings.gpus_per_host else 0,
                    object_store_memory=self.settings.object_store_bytes,
                    include_dashboard=False,
                    _system_config=_CONFIG,
                    _temp_dir=folder,
                    **self._logging(),
                )
            yield
        finally:
            processes, children = process_tree.started_with(folder), _children()
            try:
                ray.shutdown()
            finally:
                process_tree.end(processes, GRACE_SECONDS)
                for child in children:
                    child.poll()  # Ray does not, and leaves them as zombies of this process

    @contextlib.contextmanager
    def _joined(self) -> Iterator[None]:
        import ray

        knock(str(self.settings.address))
        try:
            ray.init(address=self.settings.address, **self._logging())
            yield
        finally:
            ray.shutdown()

    def _logging(self) -> dict[str, Any]:
        level = logging.INFO if self._verbose else logging.ERROR
        return {"log_to_driver": self._verbose, "configure_logging": False, "logging_level": level}

    def report_whose(self) -> None:
        """Tell the user if the run uses a Ray that this process had joined before."""
        if self._borrowed:
            report("note", text="this process is connected to a Ray already; the run uses it and leaves it running")


@contextlib.contextmanager
def _tidy() -> Iterator[None]:
    """Give this process back as it was: what Ray changes in it beside its own."""
    before = {name: os.environ.get(name) for name in (*_SWITCHES, "PYTHONBREAKPOINT")}
    os.environ.update(_SWITCHES)
    handled = faulthandler.is_enabled()
    try:
        yield
    finally:
        if not handled:
            faulthandler.disable()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Keep from the terminal what Ray prints of processes that die, whatever its level of logging.

    Ray 2.55 prints such messages with this one function, from a thread of its own; there is no setting.
    """
    import ray._private.worker as worker

    logging.getLogger("ray").setLevel(logging.CRITICAL)  # importing Ray has set a level of its own
    printed = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


def _children() -> list[subprocess.Popen[bytes]]:
    """Return what Ray 2.55 has started from this process."""
    import ray._private.worker as worker

    node = worker._global_node
    return [info.process for infos in node.all_processes.values() for info in infos] if node is not None else []


def knock(address: str) -> None:
    """Refuse an address at which nobody listens; Ray itself would go on trying for minutes.

    Raises:
        LaunchError: nobody answers, or it is no address.
    """
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise LaunchError(
            f"runtime.address: came {address!r}, expected auto, host:port or ray://host:port; set null for a Ray of "
            "our own"
        )
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS).close()
    except OSError as error:
        raise LaunchError(
            f"no Ray answers at runtime.address {address!r} ({error.strerror or error}); start one there (ray start "
            "--head), or set null for a Ray of our own"
        ) from error


def resources(available: bool = False) -> dict[str, float]:
    """Return what Ray has in all, or what of it is free: `CPU`, `GPU` and others."""
    import ray

    asked: Any = ray.available_resources if available else ray.cluster_resources
    return dict(asked())


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def fedgraft_root() -> str:
    """Return the folder from which this process imports FedGraft."""
    import fedgraft

    return str(Path(fedgraft.__file__).resolve().parent.parent)
