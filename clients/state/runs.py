"""The client state of the runs that a host serves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clients.halves import HALVES
from clients.members import Asked, Members
from clients.state.tables import Layout
from clients.state.versions import ClientStates
from fedgraft.errors import WireError
from fedgraft.wire.requests import EvaluateRequest, TrainRequest

RUNS_AT_ONCE = 4
"""Runs whose client state a host keeps in memory; one that is asked for again is read from its files."""


class RunStates:
    """The client state of the last runs of a host.

    Args:
        members: the host's clients.
    """

    def __init__(self, members: Members) -> None:
        self._members = members
        self._kept: dict[tuple[str, str, Path | None], ClientStates] = {}

    def of(self, request: TrainRequest | EvaluateRequest, half: str, asked: Asked, folder: Path | None) -> ClientStates:
        """Return the state of a request's run for a half.

        Args:
            request: it names the run and one shard.
            half: the half's name.
            asked: what the request is about.
            folder: where the run's client state lies; None: in memory only.

        Raises:
            WireError: the request names clients of other shards.
        """
        members = self._members
        if (members.shards[asked.index] != request.shard).any():
            raise WireError(f"the request names clients of other shards than {request.shard}, whose state it names")
        key = (request.run_id, half, folder)
        if key not in self._kept:
            layout = self._layout(asked, request.round_number)
            while len(self._kept) >= RUNS_AT_ONCE:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = ClientStates(layout, HALVES[half].state, members.shards, members.names, folder)
        return self._kept[key]

    def _layout(self, asked: Asked, round_number: int) -> Layout:
        """Return how the clients' state is kept, which follows the form in which they train."""
        members = self._members
        if members.part.train.form != "loop" and asked.objective.blocks is None:
            return members.engine(asked.features, members.targets_of(round_number)).layout
        sizes = members.workspace.federation.train.counts[members.clients]
        blocks = asked.objective.blocks
        norm = {} if blocks is None else {name: value.shape for name, value in blocks.norm.items()}
        return Layout(sizes, np.zeros(len(sizes), dtype=np.bool_), members.objective.num_outputs, asked.shapes, norm)
