"""What clients that trained at once give: sums of their updates, without building any client's head if possible."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clients.engine.dual import DualResult, head_update
from clients.engine.fit import Fit, fit
from clients.engine.primal import PrimalResult, Stacked, stacked_forward
from clients.engine.tables import Table
from fedgraft.evaluation import Objective
from fedgraft.models.heads import forward

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Controlled:
    """The control variates of some clients that trained at once.

    Attributes:
        shared: the federation's.
        outputs: `(num_clients, n, C)` of the federation's; only in the dual form.
        change: of each client's, as coefficients in the dual form, otherwise `(num_clients, *shape)`.
    """

    shared: Mapping[str, torch.Tensor]
    outputs: torch.Tensor | None
    change: torch.Tensor | Stacked


@dataclass(frozen=True)
class TrainedGroup:
    """Some clients that trained at once, after their training."""

    turns: NDArray[np.int64]
    num_samples: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    mean_losses: NDArray[np.float64]
    result: DualResult | PrimalResult
    table: Table
    start: torch.Tensor | None
    head: Mapping[str, torch.Tensor]
    objective: Objective
    controlled: Controlled | None = None

    @property
    def losses_before(self) -> NDArray[np.float64]:
        """Mean loss of the received head over each client's training samples, `(num_clients,)`."""
        return self._before.losses

    @property
    def losses_after(self) -> NDArray[np.float64]:
        """Mean loss of each client's own head over its training samples, `(num_clients,)`."""
        return self._after.losses

    @property
    def scores_after(self) -> NDArray[np.float64]:
        """Mean score of each client's own head over its training samples, `(num_clients,)`."""
        return self._after.scores

    @functools.cached_property
    def _before(self) -> Fit:
        outputs = self.start
        if outputs is None:
            features = self.table.features
            flat = forward(self.objective.head, self.head, features.flatten(0, 1))
            outputs = flat.view(*features.shape[:2], -1)
        return fit(outputs, self.table.targets, self.num_samples, self.objective)

    @functools.cached_property
    def _after(self) -> Fit:
        """In the dual form the outputs are `s F0 + t C + K A`, of the outputs `F0` at the start and `C` of control."""
        import torch

        if isinstance(self.result, PrimalResult):
            own = {name: self.head[name] + value for name, value in self.result.update.items()}
            outputs = stacked_forward(self.objective.head, own, self.table.features)
        elif self.start is not None and self.table.gram is not None:
            scaled = self.result.scale[:, None, None] * self.start
            outputs = torch.baddbmm(scaled, self.table.gram, self.result.coefficients)
            if self.result.shift is not None and self.controlled is not None and self.controlled.outputs is not None:
                outputs += self.result.shift[:, None, None] * self.controlled.outputs
        else:
            raise TypeError("a dual result has outputs at the start and Gram matrices")
        return fit(outputs, self.table.targets, self.num_samples, self.objective)

    def weighted_sum(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k update_k`; in the dual form one product over all samples, and no client's head."""
        factors = self._factors(weights)
        if isinstance(self.result, PrimalResult):
            return _weighted(self.result.update, factors)
        sums = self._spanned(self.result.coefficients, factors)
        moved = float((factors * (self.result.scale.double() - 1)).sum())
        for name, value in sums.items():
            value += moved * self.head[name].double().cpu().numpy()
        if self.controlled is not None and self.result.shift is not None:
            shifted = float((factors * self.result.shift.double()).sum())
            for name, value in sums.items():
                value += shifted * self.controlled.shared[name].double().cpu().numpy()
        return sums

    def square_norms(self) -> NDArray[np.float64]:
        """Return each update's squared norm over the whole head; in the dual form no client's head is built.

        There an update is `(s - 1) W0 + A^T X`, so its square is `(s - 1)^2 |W0|^2 + 2 (s - 1) <A, X W0^T> +
        trace(A^T K A)`: products with the Gram matrices and the outputs at the start, which are at hand.
        """
        import torch

        gram, start = self.table.gram, self.start
        if isinstance(self.result, PrimalResult) or self.result.shift is not None or gram is None or start is None:
            update = self.result.update if isinstance(self.result, PrimalResult) else self._dual_updates()
            squares = [value.double().flatten(1).square().sum(1).cpu().numpy() for value in update.values()]
            return np.asarray(np.sum(squares, axis=0))
        coefficients, moved = self.result.coefficients, self.result.scale.double() - 1
        inner = (coefficients * start).sum((1, 2), dtype=torch.float64)
        square = (coefficients * (gram @ coefficients)).sum((1, 2), dtype=torch.float64) + 2 * moved * inner
        square += moved.square() * sum(float(value.double().square().sum()) for value in self.head.values())
        return np.asarray(square.clamp_min(0).cpu().numpy())

    def state_change(self, state: str, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k (new_k - old_k)` of a state."""
        if state != "control" or self.controlled is None:
            raise KeyError(f"these clients trained without the state {state!r}")
        change, factors = self.controlled.change, self._factors(weights)
        return _weighted(change, factors) if isinstance(change, dict) else self._spanned(change, factors)

    def _factors(self, weights: NDArray[np.float64]) -> torch.Tensor:
        import torch

        return torch.from_numpy(weights).to(self.table.rows.device)

    def _spanned(self, coefficients: torch.Tensor, factors: torch.Tensor) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k factors_k coefficients_k^T X_k`, and with a bias what it gets by the constant feature."""
        import torch

        rows = self.table.packed(coefficients * factors.to(coefficients.dtype)[:, None, None])
        sums = {"weight": self.table.rows.weighted_sum(self.table.samples, rows)}
        return sums | {"bias": rows.sum(0, dtype=torch.float64).cpu().numpy()} if "bias" in self.head else sums

    def updates(self) -> dict[str, NDArray[np.float32]]:
        """Return every client's update, `(num_clients, *shape)`."""
        update = self.result.update if isinstance(self.result, PrimalResult) else self._dual_updates()
        return {name: value.float().cpu().numpy() for name, value in update.items()}

    def _dual_updates(self) -> dict[str, torch.Tensor]:
        if not isinstance(self.result, DualResult):
            raise TypeError("a primal result holds its updates")
        shared = None if self.controlled is None else self.controlled.shared
        return head_update(self.result, self.table.features, self.head, shared)


def _weighted(stacked: Stacked, factors: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    import torch

    return {name: torch.einsum("k,k...->...", factors, value.double()).cpu().numpy() for name, value in stacked.items()}
