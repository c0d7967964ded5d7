"""Batch norm of trained blocks that stays with each client (FedBN).

Xiaoxiao Li, Meirui Jiang, Xiaofei Zhang, Michael Kamp and Qi Dou, "FedBN: federated learning on non-IID features via
local batch normalization", ICLR 2021, arXiv:2102.07623: a client keeps scale, shift and running statistics of batch
norm; all else is averaged. In training a batch is normalised by its own statistics, in evaluation by the running ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.state.tables import StateTable
from fedgraft.errors import WireError
from fedgraft.evaluation import Objective, evaluate_rows
from fedgraft.metrics import Sums, add_sums

if TYPE_CHECKING:
    import torch

    from clients.members import Asked, Members
    from fedgraft.models.blocks import Blocks

STATE = "norm"
"""What clients keep: how far each array of their batch norm is from the pretrained one."""


@dataclass(frozen=True)
class LocalNorm:
    """The batch norm of the clients that a request names.

    Attributes:
        blocks: whose batch norm it is.
        table: the clients' state.
        clients: `(num,)` which rows of the table are theirs.
    """

    blocks: Blocks
    table: StateTable
    clients: NDArray[np.int64]

    def of(self, turn: int, objective: Objective) -> tuple[Objective, dict[str, torch.Tensor]]:
        """Return the objective with a client's running statistics, and its scales and shifts, which are trained."""
        import torch

        kept = self.table.heads(self.clients[turn : turn + 1])
        own = {name: torch.from_numpy(value + kept[name][0]) for name, value in self.blocks.norm.items()}
        running = {name: value for name, value in own.items() if name in self.blocks.running}
        weights = {name: value for name, value in own.items() if name not in running}
        return replace(objective, blocks=self.blocks.bound(running)), weights

    def keep(self, turn: int, objective: Objective, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep a client's batch norm after its training."""
        if objective.blocks is None:
            return
        own = {**objective.blocks.bound_to, **weights}
        apart = {name: own[name].detach().numpy() - value for name, value in self.blocks.norm.items()}
        self.table.keep_heads(self.clients[turn : turn + 1], {name: value[None] for name, value in apart.items()})


def local_norm(asked: Asked, table: StateTable) -> LocalNorm:
    """Return the batch norm of the clients that a request names.

    Raises:
        WireError: the request trains no blocks, or their batch norm is nobody's own.
    """
    blocks = asked.objective.blocks
    if blocks is None or not blocks.norm:
        raise WireError("the request speaks of the clients' own batch norm, and no trained block has any")
    return LocalNorm(blocks, table, asked.index)


def evaluate_own(
    members: Members, asked: Asked, norm: LocalNorm, with_confidence: bool = False
) -> tuple[Sums, dict[str, NDArray[np.float64]]]:
    """Return metric sums over the validation parts, each client with its own batch norm, and its loss and score."""
    federation = members.workspace.federation
    parts: list[Mapping[str, NDArray[Any]]] = []
    columns: dict[str, NDArray[Any]] = {name: np.zeros(len(asked.index)) for name in ("loss", "score")}
    for turn, client in enumerate(members.clients[asked.index]):
        rows = federation.validation.of(int(client))
        has_state = len(federation.train.of(int(client))) > 0
        objective, head = asked.objective, dict(asked.head)
        if has_state:
            objective, weights = norm.of(turn, objective)
            head |= {name: value.numpy() for name, value in weights.items()}
        found = evaluate_rows(
            asked.features, federation.samples.targets, rows, head, objective, 1, None, with_confidence
        )
        parts.append(found.sums)
        if len(rows):
            columns["loss"][turn], columns["score"][turn] = found.losses.mean(), found.scores.mean()
    return add_sums(parts), {f"personal_{name}": values for name, values in columns.items()}
