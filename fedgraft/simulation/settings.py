"""Settings of the runtime: where the clients of a simulation run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from fedgraft.compute_settings import Device
from fedgraft.settings import Settings, named


class InlineRuntime(Settings):
    """Everything in this process; starts at once."""

    name: Literal["inline"] = "inline"
    """Server and clients in one process, without Ray; starts at once."""
    threads: PositiveInt = 1
    """Groups of clients that train side by side, each on one thread: no bit of a trained head depends on it."""
    device: Device = "auto"
    """What trains and evaluates heads: `auto` is a CUDA GPU if there is one, else the CPU."""


class FlowerRuntime(Settings):
    """Flower's own simulation runtime: a SuperLink of our own, hosts as Ray actors."""

    name: Literal["flower"] = "flower"
    """Flower's own simulation runtime, on Ray, on this machine."""
    hosts: PositiveInt | None = None
    """Processes that speak for the clients; default: one a shard, at most one a processor core."""
    cpus_per_host: PositiveFloat = 1.0
    """Processor cores that Ray sets aside for each host."""
    threads: PositiveInt = 1
    """Groups of clients that train side by side in each host, each on one thread."""
    device: Device = "auto"
    """What trains and evaluates heads: `auto` is a CUDA GPU if the host sees one, else the CPU."""


class RayRuntime(Settings):
    """Hosts as Ray actors, on this machine or on a cluster; the server in this process."""

    name: Literal["ray"] = "ray"
    """Hosts as Ray actors, on this machine or on a cluster; the server in this process."""
    hosts: PositiveInt | None = None
    """Actors that speak for the clients; default: one a core (of a cluster: a free one), at most one a shard."""
    cpus_per_host: PositiveFloat = 1.0
    """Processor cores that Ray sets aside for each host."""
    gpus_per_host: NonNegativeFloat = 0.0
    """GPUs, or the part of one, that Ray sets aside for each host."""
    threads: PositiveInt = 1
    """Groups of clients that train side by side in each host, each on one thread."""
    device: Device = "auto"
    """What trains and evaluates heads: `auto` is a CUDA GPU if `gpus_per_host` gives the host one, else the CPU."""
    address: Annotated[str, Field(min_length=1)] | None = None
    """The Ray cluster to join: `auto`, `host:port` or `ray://host:port`; it is left running. null: a Ray of our own on
    this machine, for this run."""
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] = 200_000_000
    """Shared memory in which our own Ray passes heads and replies on; features never go through it."""


RuntimeSettings = Annotated[
    InlineRuntime | RayRuntime | FlowerRuntime, Field(discriminator="name"), BeforeValidator(named)
]

ResolvedShards = Annotated[PositiveInt, BeforeValidator(lambda value: 1 if value is None else value)]
"""What an app reads as the scenario's `shards`: a run's own are resolved before it starts; else null is 1."""
