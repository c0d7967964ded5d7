"""Shards: the fixed lists into which the clients are cut, whatever the number of hosts or processes.

Partial sums are made a shard and added in shard order, so that a result does not depend on how many
processes made it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shard_of_client(num_clients: int, num_shards: int) -> NDArray[np.int64]:
    """Return `(num_clients,)` shard numbers: runs of neighbours in the order of names, of nearly equal length."""
    positions = np.arange(num_clients, dtype=np.int64)
    return positions * num_shards // max(num_clients, 1)


def host_of_client(num_clients: int, num_shards: int, num_hosts: int) -> NDArray[np.int64]:
    """Return `(num_clients,)` host numbers of a simulation: whole shards, dealt out in turn."""
    return shard_of_client(num_clients, num_shards) % num_hosts
