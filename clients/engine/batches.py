"""The steps of a whole bucket of clients: which samples each step takes, as the plain loop takes them.

Every epoch of every client is a permutation of its own, a pure function of (seed, round, client, epoch), so a
client sees the same batches alone, in a cohort and in the plain loop (`clients.training.batches`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.settings import TrainSettings
from fedgraft.randomness import GAMMA, key, mix, ranked


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
    """Return a permutation of each client's samples in each epoch, `(num_epochs, num_clients, max(sizes))`.

    Past a client's size it says nothing.

    Args:
        keys: `(num_epochs, num_clients)`.
        sizes: `(num_clients,)`.
    """
    counters = np.arange(1, int(sizes.max(initial=0)) + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        draws = mix(keys[..., None] + counters * GAMMA)
    past = counters > sizes[:, None].astype(np.uint64)
    if past.any():
        draws[:, past] = np.iinfo(np.uint64).max  # sorts behind all samples
    return ranked(draws)


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
    for steps in np.unique(an_epoch[lengths > 0]).tolist():  # clients with as many steps an epoch walk side by side
        clients = np.flatnonzero((an_epoch == steps) & (lengths > 0))
        num_epochs = -(-int(lengths[clients[0]]) // steps)
        epochs = np.arange(num_epochs, dtype=np.uint64)[:, None]
        orders = epoch_orders(key(seed, "batches", round_number, client_keys[clients], epochs), sizes[clients])
        taken = _cut(orders, sizes[clients], steps, batch)[:, :longest]
        here = taken.shape[1]
        index[clients, :here] = taken
        counts[clients, :here] = np.tile(
            (sizes[clients, None] - np.arange(steps) * batch).clip(0, batch), (1, num_epochs)
        )[:, :here]
    return Steps(index, counts, lengths)


def _cut(orders: NDArray[np.int64], sizes: NDArray[np.int64], steps: int, batch: int) -> NDArray[np.int64]:
    """Return permutations cut into batches, `(num_clients, num_epochs * steps, batch)`; 0 past a client's size."""
    num_epochs, num_clients, longest = orders.shape
    width = min(longest, steps * batch)
    cut = np.zeros((num_clients, num_epochs, steps * batch), dtype=np.int64)
    cut[:, :, :width] = np.where(np.arange(width) < sizes[:, None], orders[:, :, :width], 0).transpose(1, 0, 2)
    return cut.reshape(num_clients, num_epochs * steps, batch)
