"""The steps of a whole bucket of clients: which samples each step takes, as the plain loop takes them.

Every epoch of every client is a permutation of its own, a pure function of (seed, round, client, epoch), so a
client sees the same batches alone, in a cohort and in the plain loop (`clients.training.batches`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.settings import TrainSettings
from fedgraft.randomness import GAMMA, key, mix


@dataclass(frozen=True)
class Steps:
    """The local steps of a bucket, padded to the longest.

    Attributes:
        index: `(num_clients, num_steps, batch_size)` positions among a client's samples; 0 where there is none.
        counts: `(num_clients, num_steps)` samples in each step; 0 past a client's last step.
        lengths: `(num_clients,)` steps of each client.
    """

    index: NDArray[np.int64]
    counts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def steps_an_epoch(sizes: NDArray[np.int64], settings: TrainSettings) -> NDArray[np.int64]:
    """Return each client's steps an epoch; `drop_last` leaves a smaller last one out unless it is the only one."""
    whole, rest = np.divmod(sizes, settings.batch_size)
    dropped = settings.drop_last & (whole > 0)
    return whole + ((rest > 0) & ~dropped)


def num_steps(sizes: NDArray[np.int64], settings: TrainSettings) -> NDArray[np.int64]:
    """Return each client's steps in a round; none for a client without samples."""
    if settings.local_steps is not None:
        return np.where(sizes > 0, settings.local_steps, 0)
    return steps_an_epoch(sizes, settings) * (settings.local_epochs or 1)


def epoch_orders(keys: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a permutation of each client's samples, `(num_clients, max(sizes))`; meaningless past its size."""
    counters = np.arange(1, int(sizes.max(initial=0)) + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        draws = mix(keys[:, None] + counters[None, :] * GAMMA)
    draws[counters[None, :] > sizes[:, None].astype(np.uint64)] = np.iinfo(np.uint64).max  # sorts behind all samples
    return np.argsort(draws, axis=1, kind="stable").astype(np.int64)


def plan_steps(
    settings: TrainSettings,
    seed: int,
    round_number: int,
    client_keys: NDArray[np.uint64],
    sizes: NDArray[np.int64],
) -> Steps:
    """Return the steps of each client.

    Args:
        settings: batch size, epochs or steps.
        seed: the scenario's.
        round_number: from 1.
        client_keys: `(num_clients,)`.
        sizes: `(num_clients,)` training samples.
    """
    lengths = num_steps(sizes, settings)
    an_epoch = steps_an_epoch(sizes, settings)
    longest = int(lengths.max(initial=0))
    batch = min(settings.batch_size, int(sizes.max(initial=1)))
    index = np.zeros((len(sizes), longest, batch), dtype=np.int64)
    counts = np.zeros((len(sizes), longest), dtype=np.int64)
    num_epochs = int((-(-lengths // np.maximum(an_epoch, 1))).max(initial=0))
    within = np.arange(batch)
    for epoch in range(num_epochs):
        order = epoch_orders(key(seed, "batches", round_number, client_keys, epoch), sizes)
        for step in range(int(an_epoch.max(initial=0))):
            at = epoch * an_epoch + step
            clients = np.flatnonzero((step < an_epoch) & (at < lengths))
            places = step * settings.batch_size + within
            real = places[None, :] < sizes[clients, None]
            taken = order[clients][:, np.minimum(places, order.shape[1] - 1)]
            index[clients, at[clients]] = np.where(real, taken, 0)
            counts[clients, at[clients]] = real.sum(axis=1)
    return Steps(index, counts, lengths)
