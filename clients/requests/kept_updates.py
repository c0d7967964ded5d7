"""What clients trained in a round, kept at their host for the exchanges that sum it up anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients.members import Asked
from clients.replies import Trained, stacked_sum
from fedgraft.wire.requests import TrainRequest

ROUNDS_KEPT = 64
"""Last rounds of a host, one a run and shard."""


@dataclass(frozen=True)
class Updates:
    """Some clients' updates themselves, in place of what they trained with; see `clients.replies.Trained`."""

    turns: NDArray[np.int64]
    num_samples: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    mean_losses: NDArray[np.float64]
    losses_before: NDArray[np.float64]
    arrays: Mapping[str, NDArray[np.float32]]

    @classmethod
    def of(cls, trained: Trained) -> Updates:
        """Return the updates of clients that trained; their own losses are not kept."""
        if isinstance(trained, Updates):
            return trained
        unknown = np.full(len(trained.turns), np.nan)
        facts = (trained.turns, trained.num_samples, trained.num_steps, trained.mean_losses, unknown)
        return cls(*facts, trained.updates())

    @property
    def losses_after(self) -> NDArray[np.float64]:
        """Not kept: NaN."""
        return self.losses_before

    @property
    def scores_after(self) -> NDArray[np.float64]:
        """Not kept: NaN."""
        return self.losses_before

    def weighted_sum(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k update_k` in float64."""
        return stacked_sum(self.arrays, weights)

    def square_norms(self) -> NDArray[np.float64]:
        """Return each update's squared norm over the whole head."""
        flat = [value.reshape(len(value), -1).astype(np.float64) for value in self.arrays.values()]
        return np.asarray(sum(np.einsum("kp,kp->k", rows, rows) for rows in flat))

    def state_change(self, state: str, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Refuse: no state changes when sums are taken anew."""
        raise ValueError(f"the state {state} does not change when updates are summed anew")

    def updates(self) -> dict[str, NDArray[np.float32]]:
        """Return every client's update, `(num_clients, *shape)`."""
        return dict(self.arrays)


@dataclass(frozen=True)
class _Round:
    round_number: int
    asked: Asked
    groups: tuple[Updates, ...]


class KeptUpdates:
    """The last round's updates of each run and shard. They are lost with the process, and then trained again."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], _Round] = {}

    def of(self, request: TrainRequest, asked: Asked) -> tuple[Updates, ...] | None:
        """Return what the clients of a request trained in its round from the same head; None if it is not here."""
        last = self._last.get((request.run_id, request.shard))
        if last is None or last.round_number != request.round_number:
            return None
        same = np.array_equal(last.asked.index, asked.index) and all(
            np.array_equal(value, last.asked.head[name]) for name, value in asked.head.items()
        )
        return last.groups if same else None

    def keep(self, request: TrainRequest, asked: Asked, groups: Sequence[Updates]) -> None:
        """Keep a round, and the oldest no longer than there is room."""
        self._last.pop((request.run_id, request.shard), None)
        while len(self._last) >= ROUNDS_KEPT:
            del self._last[next(iter(self._last))]
        self._last[request.run_id, request.shard] = _Round(request.round_number, asked, tuple(groups))
