"""Which host of a simulation speaks for which shards: by what their clients' training is predicted to cost.

A pure function of the split, the shapes and the settings. Every host computes it alone and finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.engine.choice import choose, cost
from clients.settings import TrainSettings
from fedgraft.models.head_settings import HeadSettings
from fedgraft.wire.shards import host_of_shard, shard_of_client


@dataclass(frozen=True)
class Placement:
    """Where each client is.

    Attributes:
        shards: `(num_clients,)` shard numbers.
        hosts: `(num_clients,)` host numbers.
        host_costs: `(num_hosts,)` predicted cost of each host's clients, in nanoseconds a round on one core.
    """

    shards: NDArray[np.int64]
    hosts: NDArray[np.int64]
    host_costs: NDArray[np.float64]


def place(
    num_train: NDArray[np.int64],
    num_shards: int,
    num_hosts: int,
    feature_dim: int,
    num_outputs: int,
    head: HeadSettings,
    train: TrainSettings,
) -> Placement:
    """Cut the clients into shards and place the shards on hosts.

    Args:
        num_train: `(num_clients,)` training samples of each client, in the order of names.
        num_shards: lists into which the clients are cut.
        num_hosts: hosts of the simulation.
        feature_dim: length of a feature vector.
        num_outputs: of the head.
        head: kind of head.
        train: how clients train.
    """
    shards = shard_of_client(len(num_train), num_shards)
    costs = _sums(shards, client_costs(num_train, feature_dim, num_outputs, head, train), num_shards)
    hosts = host_of_shard(costs, num_hosts)
    return Placement(shards, hosts[shards], _sums(hosts, costs, num_hosts))


def _sums(places: NDArray[np.int64], values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Return the sum of the values at each place, added one after another: the same bits on every machine."""
    sums = np.zeros(length)
    np.add.at(sums, places, values)
    return sums


def client_costs(
    num_train: NDArray[np.int64], feature_dim: int, num_outputs: int, head: HeadSettings, train: TrainSettings
) -> NDArray[np.float64]:
    """Return `(num_clients,)` predicted costs, in nanoseconds a round on one core; 0 for a client without samples."""
    sizes, turns = np.unique(num_train, return_inverse=True)
    costs = [
        cost(choose(size, feature_dim, num_outputs, head, train), size, feature_dim, num_outputs, train) if size else 0
        for size in sizes.tolist()
    ]
    return np.array(costs, dtype=np.float64)[turns]
