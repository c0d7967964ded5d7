"""What a runtime would do, told before anything is started."""

from __future__ import annotations

import importlib.util

from fedgraft.errors import LaunchError
from fedgraft.simulation.settings import FlowerRuntime, InlineRuntime, RayRuntime

NO_RAY = "install it (pip install 'flwr[simulation]') or use --runtime inline"


def forecast(runtime: InlineRuntime | RayRuntime | FlowerRuntime, num_hosts: int, num_shards: int) -> str:
    """Return a line about where the clients would run.

    Args:
        runtime: the settings.
        num_hosts: processes that would speak for the clients, by what this machine has.
        num_shards: lists into which the clients would be cut.

    Raises:
        LaunchError: it can't be: Ray is not installed, or nobody answers at its address.
    """
    if isinstance(runtime, InlineRuntime):
        return "runtime inline: server and clients in one process"
    if importlib.util.find_spec("ray") is None:
        raise LaunchError(f"the runtime {runtime.name} needs Ray, which is not installed; {NO_RAY}")
    hosts = f"{num_hosts} host{'s' if num_hosts > 1 else ''} of {runtime.cpus_per_host:g} CPUs"
    if not isinstance(runtime, RayRuntime):
        return f"runtime flower: {hosts} for {num_shards} shards, in Flower's simulation runtime on this machine"
    if runtime.gpus_per_host:
        hosts += f" and {runtime.gpus_per_host:g} GPUs"
    if runtime.address is None:
        return f"runtime ray: {hosts} for {num_shards} shards, on a Ray of its own on this machine"
    from fedgraft.simulation.ray_session import knock

    knock(runtime.address)
    if runtime.hosts is None:
        hosts = "as many hosts as there are CPUs free"
    return f"runtime ray: {hosts}, on the cluster at {runtime.address}"
