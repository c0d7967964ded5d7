"""Each client's own head between rounds: rows of client state, and no Python object a client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clients.state.tables import Kind, StateTable

if TYPE_CHECKING:
    import torch

STATE: Mapping[str, Kind] = {"own": "head", "begun": "number"}
"""What a half keeps whose clients have heads of their own: the head, and 1 for a client that has trained it."""

LAYERS: Mapping[str, Kind] = {"own": "layers", "begun": "number"}
"""The same where they have only the layer on a shared adapter."""


@dataclass(frozen=True)
class OwnHeads:
    """The own heads of a host's clients; who has none yet stands at the head that was received.

    Arrays that the table does not have, those of a shared adapter, are the received ones.

    Attributes:
        table: the heads, as state.
        begun: 1 for each client that has one.
        received: the head that was received.
        added: whether what is kept is what clients add to the received head.
    """

    table: StateTable
    begun: StateTable
    received: Mapping[str, torch.Tensor]
    added: bool = False

    def of(self, clients: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """Return the heads of some clients, `(num, *shape)` each; new tensors."""
        import torch

        stacked = {name: value.repeat(len(clients), *[1] * value.dim()) for name, value in self.received.items()}
        places = np.flatnonzero(self.table.layout.sizes[clients] > 0)
        places = places[self.begun.numbers(clients[places]) > 0]
        for name, value in self.table.heads(clients[places]).items():
            kept, at = torch.from_numpy(value), torch.from_numpy(places)
            stacked[name][at] = stacked[name][at] + kept if self.added else kept
        return stacked

    def keep(self, clients: NDArray[np.int64], heads: Mapping[str, torch.Tensor]) -> None:
        """Write the heads of clients that have trained them, or with `added` what they add."""
        self.table.keep_heads(clients, {name: value.cpu().numpy() for name, value in heads.items()})
        self.begun.keep_numbers(clients, 1.0)
