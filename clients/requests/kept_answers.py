"""The last answers under halves that keep state, in case that they are asked for again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clients.members import Groups
from fedgraft.wire.requests import TrainReply, TrainRequest

ANSWERS_KEPT = 64
"""Last answers of a host, one a run and shard."""


@dataclass(frozen=True)
class Answer:
    """What a host answered to a request to train."""

    request: TrainRequest
    asked: Groups
    body: TrainReply
    groups: Groups

    def answers(self, request: TrainRequest, asked: Groups) -> bool:
        """Return whether this is the answer to a request, to the last bit of its arrays."""
        if request != self.request or asked.keys() != self.asked.keys():
            return False
        pairs = [(asked[group], self.asked[group]) for group in asked]
        return all(
            one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
            for one, other in pairs
        )


class KeptAnswers:
    """The last answer of each run and shard."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], Answer] = {}

    def to(self, request: TrainRequest, asked: Groups) -> Answer | None:
        """Return the answer to a request that has been answered just before; None if it has not."""
        last = self._last.get((request.run_id, request.shard))
        return last if last is not None and last.answers(request, asked) else None

    def keep(self, answer: Answer) -> None:
        """Keep the last answer of a run and shard, and the oldest no longer than there is room."""
        while len(self._last) >= ANSWERS_KEPT:
            del self._last[next(iter(self._last))]
        self._last[answer.request.run_id, answer.request.shard] = answer
