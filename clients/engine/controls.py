"""Control variates of clients that train at once: read before their training, written after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.engine.dual import DualControl, DualResult
from clients.engine.primal import PrimalControl, PrimalResult, Stacked
from clients.engine.tables import Table
from clients.engine.trained_group import Controlled
from clients.halves import Control

if TYPE_CHECKING:
    import torch


def start_outputs(
    table: Table, head: Mapping[str, torch.Tensor], clients: NDArray[np.int64], control: Control | None
) -> tuple[torch.Tensor, DualControl | None]:
    """Return a linear head's outputs, `(num_clients, n, C)`, and control variates; one product for both."""
    import torch

    both = dict(head)
    if control is not None:
        both = {name: torch.cat([value, control.shared[name]]) for name, value in head.items()}
    outputs = table.padded(table.rows.outputs(table.samples, both["weight"], both.get("bias")))
    if control is None:
        return outputs, None
    start, shared = outputs.chunk(2, dim=2)
    own = torch.from_numpy(control.own.coefficients(clients, table.targets.shape[1])).to(start.device)
    return start.contiguous(), DualControl(shared, own)


def primal_control(control: Control, clients: NDArray[np.int64], like: Mapping[str, torch.Tensor]) -> PrimalControl:
    """Return the control variates of clients as heads, on the device of `like`."""
    return PrimalControl(control.shared, _tensors(control.own.heads(clients), like))


def _tensors(stacked: Mapping[str, NDArray[Any]], like: Mapping[str, torch.Tensor]) -> Stacked:
    """Return arrays as tensors on the device of the tensor of the same name."""
    import torch

    return {name: torch.from_numpy(value).to(like[name].device) for name, value in stacked.items()}


def keep_control(
    control: Control, clients: NDArray[np.int64], result: DualResult | PrimalResult, dual_control: DualControl | None
) -> Controlled | None:
    """Write the control variates of clients that trained at once."""
    if result.gradients is None:
        return None
    if isinstance(result, DualResult):
        if dual_control is None:
            return None
        own = dual_control.own
        # FedDyn's federation has no variate and its clients no weight decay: the update is `coefficients^T X`
        coefficients = own - control.pull * result.coefficients if control.pull else result.gradients
        control.own.keep_coefficients(clients, coefficients.cpu().numpy())
        return Controlled(control.shared, dual_control.outputs, coefficients - own)
    before, following = _tensors(control.own.heads(clients), result.gradients), result.gradients
    if control.pull:
        following = {name: value - control.pull * result.update[name] for name, value in before.items()}
    control.own.keep_heads(clients, {name: value.cpu().numpy() for name, value in following.items()})
    change = {name: value - before[name] for name, value in following.items()}
    return Controlled(control.shared, None, change)
