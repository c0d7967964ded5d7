"""Client halves: the closed vocabulary of what an algorithm may do inside a client's local step.

A half travels as its name and parameters, never as code. It changes the gradient of a step after clipping
and before the optimiser adds weight decay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fedgraft.errors import WireError, listed, nearest
from fedgraft.wire.requests import HalfSettings

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]
Adjust = Callable[[Tensors, Tensors], None]
"""`adjust(parameters, start)`: changes `parameters[name].grad` in place; `start` is the head that was received."""


def plain(parameters: Mapping[str, float]) -> Adjust:
    """Return the half of FedAvg: the gradient as it is."""
    return lambda parameters, start: None


def proximal(parameters: Mapping[str, float]) -> Adjust:
    """Return the half of FedProx (Li et al., MLSys 2020, arXiv:1812.06127, eq. 2): adds `mu (w - w_start)`."""
    mu = parameters["mu"]

    def adjust(current: Tensors, start: Tensors) -> None:
        for name, parameter in current.items():
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start[name], alpha=mu)

    return adjust


HALVES: dict[str, tuple[Callable[[Mapping[str, float]], Adjust], frozenset[str]]] = {
    "plain": (plain, frozenset()),
    "proximal": (proximal, frozenset({"mu"})),
}
"""Name -> its builder, and the names of its parameters."""


def build_half(half: HalfSettings) -> Adjust:
    """Return the half's function.

    Raises:
        WireError: this release has no such half, or its parameters are others.
    """
    if half.name not in HALVES:
        raise WireError(
            f"the strategy asks for the client half {half.name!r}, this client has {listed(HALVES)}"
            f"; install the release that the server runs{nearest(half.name, HALVES)}"
        )
    builder, names = HALVES[half.name]
    if set(half.parameters) != names:
        raise WireError(
            f"client half {half.name!r} came with parameters {listed(sorted(half.parameters)) or 'none'}, "
            f"expected {listed(sorted(names)) or 'none'}"
        )
    return builder(half.parameters)
