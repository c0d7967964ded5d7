"""The runs of a sweep on a Ray cluster: on each free core an actor with a worker process of its own.

A run is made by the same worker process as on one machine, in the same folder, which all machines have to share. So
it leaves the same run directory, goes on after a kill, and takes nothing with it when it dies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgraft.errors import LaunchError
from fedgraft.simulation.ray_code import finder
from fedgraft.simulation.ray_session import RaySession, fedgraft_root, resources
from fedgraft.simulation.settings import RayRuntime
from fedgraft.wire.protocol import PACKAGES
from scenarios.sweep.bench import Listener, Task
from scenarios.sweep.workers import Inbox, Worker, share_out

START_SECONDS = 120.0
"""For the actors to come; a cluster that grows on demand needs its time."""

NEWS_SECONDS = 0.5
"""For so long an actor waits for its process to say something."""


def bench_class() -> type:
    """Return the actor's class; made inside a function, so that it travels as code and can find FedGraft itself."""
    find = finder()

    class Bench:
        """One worker process on whichever machine Ray has found a place."""

        def set_up(
            self, root: str, packages: tuple[str, ...], environment: dict[str, str], seen: str, log: str
        ) -> str | None:
            """Find FedGraft and the comparison's folder; return what is missing, a text for the user.

            Args:
                root: the folder from which the driver imports FedGraft.
                packages: FedGraft's packages.
                environment: variables for the process.
                seen: a file that lies in the comparison's folder.
                log: what the process prints beside its messages.
            """
            import socket
            from pathlib import Path

            find(root, packages, environment)
            try:
                from scenarios.sweep.relay import Relay
            except ImportError as error:
                return (
                    f"FedGraft can't be loaded on {socket.gethostname()} ({error}); install the same release of "
                    "FedGraft for the Python of every machine of the cluster"
                )
            if not Path(seen).exists():
                return (
                    f"{socket.gethostname()} does not see {seen}; a comparison on several machines needs a folder that "
                    "all of them share: name one with --out"
                )
            self.relay = Relay(Path(log))
            return None

        def begin(self, task: dict[str, str]) -> None:
            """Have the process make a run."""
            self.relay.begin(task)

        def news(self, seconds: float) -> list[dict[str, Any]]:
            """Return what the process has said since, after waiting for a moment."""
            return self.relay.news(seconds)

    return Bench


class RayWorker:
    """One actor as the sweep's conductor sees it.

    Args:
        actor: set up.
        inbox: where its messages go.
    """

    blameless = True  # a run that dies takes its process with it, not the actor: that goes with its machine

    def __init__(self, actor: Any, inbox: Inbox) -> None:
        self.task: Task | None = None
        self._actor = actor
        self._inbox = inbox
        self._death = "its actor ended"
        self._ending = threading.Event()

    def give(self, task: Task) -> None:
        """Have the actor make a run."""
        self.task = task
        threading.Thread(target=self._follow, args=(task,), daemon=True).start()

    def _follow(self, task: Task) -> None:
        import ray

        try:
            ray.get(self._actor.begin.remote(dataclasses.asdict(task)))
            while not self._ending.is_set():
                for message in ray.get(self._actor.news.remote(NEWS_SECONDS)):
                    self._inbox.put((self, message))
                    if message["kind"] in ("finished", "failed"):
                        return
        except Exception as error:  # Ray raises whatever its parts do; the conductor hears of the actor's end
            if not self._ending.is_set():
                lines = str(error).strip().splitlines() or [type(error).__name__]
                self._death = f"its actor on the Ray cluster ended: {lines[0]}"
                self._inbox.put((self, None))

    def death(self) -> str:
        """Return what ended the actor, in words."""
        return self._death

    def end(self) -> None:
        """End the actor, and with it its process; a run that it was making can be gone on with."""
        import ray

        self._ending.set()
        with contextlib.suppress(Exception):  # Ray itself may be gone
            ray.kill(self._actor, no_restart=True)


@contextlib.contextmanager
def cluster(address: str, verbose: bool) -> Iterator[None]:
    """Join a Ray cluster for the length of the block; it is left running.

    Raises:
        LaunchError: nobody answers there, or Ray is not installed.
    """
    with RaySession(RayRuntime(address=address), verbose) as session:
        session.start(0)
        session.wait()
        yield


def free_places(threads: int) -> int:
    """Return for how many runs the cluster has room now, at least 1."""
    return max(1, int(resources(available=True).get("CPU", 0.0) / threads))


def make_on_ray(
    tasks: Sequence[Task], jobs: int, listener: Listener, log: Path, threads: int, environment: Mapping[str, str]
) -> None:
    """Make runs on the cluster that this process has joined.

    Args:
        tasks: in the order in which they are begun.
        jobs: how many side by side.
        listener: called with each message; if it raises, the workers are ended.
        log: what workers print beside their messages, in the comparison's folder.
        threads: of each run.
        environment: variables for the workers, beside those of their machine.

    Raises:
        LaunchError: no machine has room, or one lacks FedGraft or does not see the folder.
    """
    if not tasks:
        return
    seen = str(log.parent / "comparison.json")
    start = _starter(threads, (fedgraft_root(), PACKAGES, dict(environment), seen, str(log)))
    try:
        share_out(tasks, jobs, listener, start, replace=False)
    finally:
        if log.exists() and not log.stat().st_size:
            log.unlink()


def _starter(threads: int, place: tuple[Any, ...]) -> Callable[[Inbox], Worker]:
    import ray

    kind: Any = ray.remote(bench_class())

    def start(inbox: Inbox) -> Worker:
        actor = kind.options(num_cpus=threads, max_restarts=0).remote()
        ready = actor.set_up.remote(*place)
        deadline = time.monotonic() + START_SECONDS
        while not ray.wait([ready], timeout=0.2)[0]:  # short, so that Ctrl-C is heard
            if time.monotonic() > deadline:
                raise LaunchError(f"the Ray cluster found no place for a run of {threads} CPUs; lower --jobs")
        fault = ray.get(ready)
        if fault:
            raise LaunchError(fault)
        return RayWorker(actor, inbox)

    return start


def kept_environment() -> dict[str, str]:
    """Return what workers on other machines are to know of this one's environment."""
    from fedgraft.launch import SWITCHED_OFF

    return SWITCHED_OFF | {name: os.environ[name] for name in ("XDG_CACHE_HOME",) if name in os.environ}
