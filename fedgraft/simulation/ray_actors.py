"""The Ray actors that are a run's hosts: started, waited for, and started again when they die."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgraft.errors import LaunchError
from fedgraft.files import append_text
from fedgraft.progress import report
from fedgraft.simulation.inline import FIRST_HOST
from fedgraft.simulation.ray_host import host_class
from fedgraft.simulation.ray_session import fedgraft_root, resources
from fedgraft.simulation.settings import RayRuntime
from fedgraft.wire.protocol import PACKAGES

START_SECONDS = 120.0
"""For the hosts to come; a cluster that grows on demand needs its time."""

WAIT_SECONDS = 0.2
"""How long one look for answers waits for all of them; it ends at once when all are there."""

MOST_DEATHS = 3
"""Of one host in a row without an answer; then it is no accident."""

PATIENCE_SECONDS = 10.0
"""For Ray to find a place for a host that died, before the host shares the CPUs of the others."""


@dataclass
class RayHost:
    """One host, whatever actor speaks for it now.

    Attributes:
        node: its id among Flower's.
        number: from 0.
        actor: who speaks for it.
        placed: a reference that is ready once Ray has found the actor a place.
        ready: a reference to what the actor says of itself once it has loaded its app.
        deaths: in a row, without an answer.
        homeless_since: when it was started again, until it is known to have a place.
        shares: whether it was started without CPUs of its own.
    """

    node: int
    number: int
    actor: Any = None
    placed: Any = None
    ready: Any = None
    deaths: int = 0
    homeless_since: float | None = None
    shares: bool = False


class RayActors:
    """All hosts of a run.

    Args:
        app: the ClientApp, as `module:name`; only the actors load it.
        num_hosts: how many actors.
        run_config: the run's settings, with the submission.
        settings: what Ray sets aside for each.
        environment: variables for the actors, beside those of their machine.
        log: where Ray's own words about deaths are appended.
    """

    def __init__(
        self,
        app: str,
        num_hosts: int,
        run_config: Mapping[str, str],
        settings: RayRuntime,
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        import ray

        self._app = app
        self._settings = settings
        self._environment = dict(environment)
        self._log = log
        self._class: Any = ray.remote(host_class())
        self._run_config = ray.put(dict(run_config))
        self._hosts = {FIRST_HOST + number: RayHost(FIRST_HOST + number, number) for number in range(num_hosts)}
        for host in self._hosts.values():
            self._start(host, settings.cpus_per_host)

    def __getitem__(self, node: int) -> RayHost:
        return self._hosts[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def _start(self, host: RayHost, num_cpus: float) -> None:
        """Start an actor for a host."""
        options = {"num_cpus": num_cpus, "num_gpus": self._settings.gpus_per_host, "max_restarts": 0}
        host.actor = self._class.options(**options).remote()
        host.placed = host.actor.is_there.remote()
        node_config = {"partition-id": host.number, "num-partitions": len(self)}
        host.ready = host.actor.set_up.remote(
            fedgraft_root(), PACKAGES, self._environment, self._app, host.node, node_config, self._run_config
        )

    def wait(self) -> None:
        """Wait until every host has loaded its app.

        Raises:
            LaunchError: some did not come, or can't load FedGraft.
        """
        import ray

        deadline = time.monotonic() + START_SECONDS
        waiting = [host.ready for host in self._hosts.values()]
        while waiting:
            ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=WAIT_SECONDS)
            for reference in ready:
                _check_ready(reference)
            if waiting and time.monotonic() > deadline:
                raise LaunchError(
                    f"{len(waiting)} of {len(self)} hosts found no place within {START_SECONDS:g} s; {self._wants()}"
                )

    def _wants(self) -> str:
        settings = self._settings
        return (
            f"each wants {settings.cpus_per_host:g} CPUs and {settings.gpus_per_host:g} GPUs, and Ray has "
            f"{_counted(resources())}, of these free {_counted(resources(available=True))}; "
            "lower runtime.hosts, runtime.cpus_per_host or runtime.gpus_per_host"
        )

    def revive(self, host: RayHost, error: Exception) -> str | None:
        """Start a dead host again; or return why not, a text for the user."""
        host.deaths += 1
        append_text(self._log, f"host {host.number} died ({host.deaths} in a row):\n{error}\n\n")
        self._end(host)
        if host.deaths >= MOST_DEATHS:
            return (
                f"it died {host.deaths} times in a row without an answer; most likely it ran out of memory: lower "
                f"runtime.hosts, or give the machine more memory, then go on with --resume (Ray's words: {self._log})"
            )
        report("note", text=f"host {host.number} died; it is started again and asked again")
        host.homeless_since = time.monotonic()
        self._start(host, 0.0 if host.shares else self._settings.cpus_per_host)
        return None

    def find_places(self) -> dict[int, str | None]:
        """Look after hosts that were started again and that Ray finds no place for, since their machine has left.

        Returns:
            By node, those that now share the CPUs of other hosts, whose messages are to be sent once more: None; and
            those that found no place even so: a text for the user.
        """
        homeless = [host for host in self._hosts.values() if host.homeless_since is not None]
        return {host.node: self._move(host) for host in homeless if self._waits_too_long(host)}

    def _waits_too_long(self, host: RayHost) -> bool:
        import ray

        if host.homeless_since is None or ray.wait([host.placed], timeout=0)[0]:
            host.homeless_since = None
            return False
        waited = time.monotonic() - host.homeless_since
        return waited > (START_SECONDS if host.shares else PATIENCE_SECONDS)

    def _move(self, host: RayHost) -> str | None:
        if host.shares:
            return f"it died, and no machine has room for it: {self._wants()}, then go on with --resume"
        self._end(host)
        report("note", text=f"host {host.number} finds no CPUs of its own any more; it shares those of other hosts")
        host.shares, host.homeless_since = True, time.monotonic()
        self._start(host, 0.0)
        return None

    def close(self) -> None:
        """End the actors; on somebody's cluster nothing else would."""
        with contextlib.suppress(Exception):  # Ray itself may be gone, and what ended the run matters more
            for host in self._hosts.values():
                self._end(host)

    def _end(self, host: RayHost) -> None:
        import ray

        ray.kill(host.actor, no_restart=True)


def _check_ready(reference: Any) -> None:
    import ray

    try:
        fault = ray.get(reference)["fault"]
    except ray.exceptions.RayTaskError as error:
        raise LaunchError(f"a host could not be set up: {error.cause!s}") from error
    except ray.exceptions.RayError:
        return  # it died while it started; its first message finds out, and starts it again
    if fault:
        raise LaunchError(fault)


def _counted(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
