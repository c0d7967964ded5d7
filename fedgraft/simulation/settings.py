"""Settings of the runtime: where the clients of a simulation run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from fedgraft.settings import Settings, named


class InlineRuntime(Settings):
    """Everything in this process; starts at once."""

    name: Literal["inline"] = "inline"
    """Server and clients in one process, without Ray; starts at once."""
    threads: PositiveInt = 1
    """Groups of clients that train side by side, each on one thread: no bit of a trained head depends on it."""


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


ResolvedShards = Annotated[PositiveInt, BeforeValidator(lambda value: 1 if value is None else value)]
"""What an app reads as the scenario's `shards`: a run's own are resolved before it starts; else null is 1."""

RuntimeSettings = Annotated[InlineRuntime | FlowerRuntime, Field(discriminator="name"), BeforeValidator(named)]
