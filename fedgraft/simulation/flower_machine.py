"""This machine as one Flower run sees it: its CPUs, its ports, and the environment of Flower's processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedgraft.errors import LaunchError


@dataclass(frozen=True)
class Actors:
    """How Flower's simulation divides the machine: Ray actors that speak for `num_hosts` simulated nodes.

    Flower takes whole CPUs only, but Ray merely keeps accounts of them: an actor counts as one CPU, and Ray is
    told of `num_actors` CPUs. Left to itself it would start an actor for each of the machine's.
    """

    num_hosts: int
    num_actors: int
    gpus_per_actor: float


def divide(num_hosts: int, cpus_per_host: float, gpus_per_host: float) -> Actors:
    """Return how many hosts work at once: as many as the CPUs allow, at least one."""
    if num_hosts < 1 or cpus_per_host <= 0 or gpus_per_host < 0:
        raise LaunchError(
            f"num_hosts is {num_hosts}, cpus_per_host {cpus_per_host} and gpus_per_host {gpus_per_host}; expected "
            "at least one host, more than 0 CPUs and at least 0 GPUs"
        )
    at_once = max(1, int(_num_cpus() / cpus_per_host))
    return Actors(num_hosts, min(num_hosts, at_once), gpus_per_host)


def processes_environment(folder: Path, cpus_per_host: float, given: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of Flower's processes; Ray's actors inherit it."""
    ours = {
        "FLWR_HOME": str(folder / "home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_TMPDIR": str(folder),
        "PYTHONUNBUFFERED": "1",  # so that the log is whole whatever ends the process
    }
    threads = {"OMP_NUM_THREADS": str(max(1, int(cpus_per_host)))}  # or every actor takes every core
    foreign = {"RAY_ADDRESS", "RAY_NAMESPACE"}  # would send the run to somebody's cluster
    kept = {name: value for name, value in given.items() if name not in foreign}
    return {**threads, **kept, **ours, **unproxied(kept)}


def _num_cpus() -> int:
    """Return the CPUs that this process may use; a batch system may have given it a few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def unproxied(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that keep this machine's own addresses off the site's proxy."""
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = ",".join(filter(None, [known, "127.0.0.1", "localhost"]))
    return {"no_proxy": hosts, "NO_PROXY": hosts}


def reserved_port() -> socket.socket:
    """Return a socket bound to a free loopback port.

    It never listens: with SO_REUSEADDR on both, Linux lets the SuperLink listen there meanwhile, and the kernel
    gives the port to nobody who asks for a free one.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved
