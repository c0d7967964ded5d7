"""Shards: the fixed lists into which the clients are cut, whatever the number of hosts or processes.

Partial sums are made a shard and added in shard order, so that a result does not depend on how many
processes made it.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray


def shard_of_client(num_clients: int, num_shards: int) -> NDArray[np.int64]:
    """Return `(num_clients,)` shard numbers: runs of neighbours in the order of names, of nearly equal length."""
    positions = np.arange(num_clients, dtype=np.int64)
    return positions * num_shards // max(num_clients, 1)


def host_of_shard(costs: NDArray[np.float64], num_hosts: int) -> NDArray[np.int64]:
    """Return `(num_shards,)` host numbers: whole shards, placed so that no host has much more work than another.

    The costliest shard first, each to the host with the least so far (R. L. Graham, "Bounds on Multiprocessing
    Timing Anomalies", SIAM J. Appl. Math. 17(2), 1969: the busiest host has at most 4/3 - 1/(3 num_hosts) times
    the work of the best placement's). Of equal hosts the one with fewer shards is taken, then the first; so every
    process that knows the costs finds the same.

    Args:
        costs: `(num_shards,)` predicted work of each shard.
        num_hosts: at least 1.
    """
    hosts = np.zeros(len(costs), dtype=np.int64)
    waiting = [(0.0, 0, host) for host in range(num_hosts)]
    for shard in np.argsort(-costs, kind="stable"):
        load, count, host = heapq.heappop(waiting)
        hosts[shard] = host
        heapq.heappush(waiting, (load + float(costs[shard]), count + 1, host))
    return hosts


def imbalance(work: NDArray[np.float64]) -> float:
    """Return the largest of the hosts' work over its mean: 1 where no host waits for another, or none has any."""
    mean = float(work.mean()) if len(work) else 0.0
    return float(work.max()) / mean if mean > 0 else 1.0
