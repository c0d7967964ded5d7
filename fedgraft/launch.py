"""Starts both apps of a run in the runtime that its scenario names, and says what that runtime has room for."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fedgraft.errors import FedGraftError
from fedgraft.events import follower
from fedgraft.submission import Submission

if TYPE_CHECKING:
    from flwr.serverapp import ServerApp

    from fedgraft.simulation.ray_session import RaySession
    from scenarios.schema import Scenario


SWITCHED_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Nothing phones home, from this process or one that it starts."""

SHARDS_A_HOST = 4
"""Shards for each of several hosts where the scenario leaves their number open: enough to spread work evenly."""


def quieten(verbose: bool) -> None:
    """Switch telemetry off, and keep Flower's and Ray's logs from the terminal unless asked for."""
    os.environ.update(SWITCHED_OFF)
    for name in ("flwr", "ray", "timm", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)


def load_apps() -> None:
    """Load both apps and torch, so that a process which makes many runs waits for them once, before the first."""
    for name in ("torch", "clients.app", "server.app"):
        importlib.import_module(name)


def usable_cores() -> int:
    """Return the cores that this process may use; a batch system may have given it a few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_hosts(scenario: Scenario, room: int | None = None) -> int:
    """Return how many processes speak for the clients: at most one a shard, if that number is known.

    Args:
        scenario: the scenario.
        room: for how many a cluster has room; by default as many as this machine has cores.
    """
    if scenario.runtime.name == "inline":
        return 1
    wanted = scenario.runtime.hosts or room or usable_cores()
    return wanted if scenario.shards is None else min(scenario.shards, wanted)


def with_shards(scenario: Scenario, recorded: int | None = None, room: int | None = None) -> Scenario:
    """Return the scenario with its number of shards: its own, a resumed run's, or what fits the number of hosts."""
    if scenario.shards is not None:
        return scenario
    number = num_hosts(scenario, room)
    fitting = SHARDS_A_HOST * number if number > 1 else 1
    return scenario.model_copy(update={"shards": recorded or fitting})


def runtime_line(scenario: Scenario) -> str:
    """Return a line about where the clients would run.

    Raises:
        LaunchError: Ray is not installed, or nobody answers at its address.
    """
    from fedgraft.simulation.forecast import forecast

    return forecast(scenario.runtime, num_hosts(scenario), with_shards(scenario).shards or 1)


def begin_ray(scenario: Scenario, stack: contextlib.ExitStack, verbose: bool) -> tuple[RaySession | None, int | None]:
    """Return the connection to Ray, if the runtime is `ray`, and for how many hosts somebody's cluster has room.

    A cluster is joined now, since the number of hosts depends on it; a Ray of our own is started later.
    """
    if scenario.runtime.name != "ray":
        return None, None
    from fedgraft.simulation.ray_session import RaySession

    session = stack.enter_context(RaySession(scenario.runtime, verbose))
    if session.own:
        return session, None
    session.start(0)
    session.wait()
    return session, session.free_hosts()


def start(scenario: Scenario, submission: Submission, session: RaySession | None, verbose: bool) -> None:
    """Start both apps in the scenario's runtime and wait for the end."""
    if scenario.runtime.name == "flower":
        _start_flower(submission, scenario.runtime.cpus_per_host, verbose)
        return
    from server.app import app as server_app

    start_here(server_app, submission, session, verbose)


def start_here(server_app: ServerApp, submission: Submission, session: RaySession | None, verbose: bool) -> None:
    """Run a ServerApp in this process, and the ClientApp here too or in Ray's actors; forget its data in the end.

    Args:
        server_app: Flower's.
        submission: what is run.
        session: Ray, started, or None for the runtime `inline`.
        verbose: let Flower and Ray log to the terminal.
    """
    if session is not None:
        from fedgraft.simulation.ray_grid import run_on_ray
        from fedgraft.workspace import open_workspace

        quieten(verbose)  # once more: Flower sets its own level when it is imported
        kept = {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]} if "XDG_CACHE_HOME" in os.environ else {}
        config = {"scenario": submission.to_run_config()}
        log = Path(submission.run.directory) / "ray.log"
        try:
            run_on_ray(
                session, server_app, "clients.app:app", submission.run.num_hosts, config, SWITCHED_OFF | kept, log
            )
        finally:
            open_workspace.cache_clear()
        return
    from clients.app import app as client_app
    from clients.host import forget_hosts
    from fedgraft.simulation.inline import run_inline

    quieten(verbose)  # once more: Flower sets its own level when it is imported
    try:
        run_inline(server_app, client_app, {"scenario": submission.to_run_config()})
    finally:
        forget_hosts()


def _start_flower(submission: Submission, cpus_per_host: float, verbose: bool) -> None:
    """Have Flower's simulation runtime run both apps."""
    from fedgraft.simulation.flower import run_in_flower

    directory = Path(submission.run.directory)
    follow = follower(directory / "events.jsonl")
    outcome = run_in_flower(
        {"scenario": submission.to_run_config()},
        submission.run.num_hosts,
        cpus_per_host,
        verbose=verbose,
        on_poll=follow,
        log_file=directory / "flower.log",
    )
    follow()
    if outcome.status != "completed":
        raise FedGraftError(f"{outcome.details}\n(Flower's log: {directory / 'flower.log'})")
