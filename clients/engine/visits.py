"""What the steps of clients that train at once look at, prepared for all steps at once: a call a step is too many."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from clients.engine.batches import Steps
from fedgraft.models.loss_settings import LossSettings
from fedgraft.models.losses import sample_weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Visits:
    """The steps of clients in falling order of their number of steps; a step's samples are those of its active clients.

    Attributes:
        index: `(num_steps, num_clients, batch)` positions among a client's samples; 0 where there is none.
        counts: `(num_steps, num_clients)` samples of each step; 0 past a client's last.
        num_active: how many clients have each step.
        places: of each step `(active * batch,)` positions among the samples of all clients, who have n places each.
        targets: of each step `(active * batch,)` int64 classes for softmax, else `(active * batch, C)`.
        shares: `(num_steps, num_clients, batch)` what a sample's loss is multiplied by in its batch's mean, 0 where
            there is no sample; or `()`, where that is 1 / batch for all.
    """

    index: torch.Tensor
    counts: torch.Tensor
    num_active: list[int]
    places: list[torch.Tensor]
    targets: list[torch.Tensor]
    shares: torch.Tensor

    @property
    def width(self) -> int:
        """Samples of a whole batch."""
        return self.index.shape[2]

    @property
    def seen(self) -> torch.Tensor:
        """Samples of all steps, `(num_clients,)`."""
        return self.counts.sum(0)

    def by_step(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Return values `(num_steps, num_clients, batch, ...)` of each step's samples, `(active * batch, ...)`."""
        rows = values.flatten(1, 2).unbind(0)
        return [row[: active * self.width] for row, active in zip(rows, self.num_active, strict=True)]

    def share(self, step: int) -> torch.Tensor:
        """Return the shares of the samples of a step's active clients, `(active, batch)`, or of all of them, `()`."""
        return self.shares[step, : self.num_active[step]] if self.shares.dim() else self.shares

    def loss_sums(self, losses: torch.Tensor) -> torch.Tensor:
        """Return each client's mean losses of its steps, times their samples, added: `(num_clients,)` in float64.

        Args:
            losses: `(num_steps, num_clients, batch)`; 0 past a client's last step.
        """
        return ((losses * self.shares).sum(2).double() * self.counts).sum(0)


def visits(steps: Steps, targets: torch.Tensor, loss: LossSettings, dtype: torch.dtype) -> Visits:
    """Prepare the steps.

    Args:
        steps: the clients'.
        targets: `(num_clients, n)` int64 classes for softmax, else `(num_clients, n, C)`.
        loss: a resolved loss.
        dtype: of computation.
    """
    import torch

    num_clients, size = targets.shape[:2]
    device, width = targets.device, steps.index.shape[2]
    index = torch.from_numpy(steps.index).to(device).transpose(0, 1).contiguous()
    counts = torch.from_numpy(steps.counts).to(device).T.contiguous()
    places = index + torch.arange(num_clients, device=device)[:, None] * size
    wanted = targets.flatten(0, 1).index_select(0, places.flatten()).view(*places.shape, *targets.shape[2:])
    has_step = steps.lengths[:, None] > np.arange(steps.counts.shape[1])
    weights = sample_weights(wanted, loss, dtype)
    if weights is None and bool((~has_step | (steps.counts == width)).all()):
        shares = torch.tensor(1 / width, dtype=dtype, device=device)
    else:
        shares = _shares(counts, width, weights, dtype)
    found = Visits(index, counts, has_step.sum(0).tolist(), [], [], shares)
    return replace(found, places=found.by_step(places), targets=found.by_step(wanted))


def _shares(counts: torch.Tensor, width: int, weights: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """Return what each sample's loss is multiplied by in its batch's mean; `weights` are those of the classes."""
    import torch

    real = torch.arange(width, device=counts.device) < counts[:, :, None]
    counted = counts[:, :, None].to(dtype) if weights is None else (weights * real).sum(2, keepdim=True)
    return torch.where(real, 1 / counted, 0)
