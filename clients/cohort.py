"""Training of the clients that a request names, and what the reply carries of it: sums, or every update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.training import LocalResult
from fedgraft.errors import WireError, listed, nearest

if TYPE_CHECKING:
    import torch

LARGEST_STACK_BYTES = 1_000_000_000
"""Above it a `stack` reply is refused before anything is trained."""


@dataclass
class SumReply:
    """Additive arrays and scalars over the clients, in float64; no client's head outlives its turn.

    The vocabulary is closed: sums `update` is `sum_k n_k (w_k - w)`; scalars `weight` is `sum_k n_k`, `steps`
    the sum of local steps, `clients` the number of clients that trained.
    """

    sums: Sequence[str]
    scalars: Sequence[str]
    totals: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, asked, known in (("sum", self.sums, SUMS), ("scalar", self.scalars, SCALARS)):
            unknown = [name for name in asked if name not in known]
            if unknown:
                raise WireError(
                    f"the strategy asks for the {kind} {listed(unknown)}, this client has {listed(known)}"
                    f"; install the release that the server runs{nearest(unknown[0], known)}"
                )
        self.numbers = dict.fromkeys(self.scalars, 0.0)

    def start(self, head: Mapping[str, torch.Tensor]) -> None:
        """Begin with zeros of the head's shapes, so that a shard of empty clients adds nothing."""
        self.totals = {name: {part: np.zeros(tuple(value.shape)) for part, value in head.items()} for name in self.sums}

    def add(self, head: Mapping[str, torch.Tensor], result: LocalResult, num_samples: int) -> None:
        """Add one client."""
        if num_samples == 0:
            return
        update = {name: (result.parameters[name] - value).double().numpy() for name, value in head.items()}
        for name in self.totals:
            for part, value in SUMS[name](update, num_samples).items():
                self.totals[name][part] += value
        for name in self.numbers:
            self.numbers[name] += SCALARS[name](result, num_samples)

    def groups(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the arrays of the reply, rounded once to float32: the wire carries one head a sum."""
        return {
            name: {part: value.astype(np.float32) for part, value in total.items()}
            for name, total in self.totals.items()
        }


def _weighted_update(update: Mapping[str, NDArray[np.float64]], num_samples: int) -> dict[str, NDArray[np.float64]]:
    return {name: num_samples * value for name, value in update.items()}


SUMS = {"update": _weighted_update}
SCALARS = {
    "weight": lambda result, num_samples: float(num_samples),
    "steps": lambda result, num_samples: float(result.num_steps),
    "clients": lambda result, num_samples: 1.0,
}


@dataclass
class StackReply:
    """Every client's update, `(num_clients, *shape)` float32, in the order of the request."""

    updates: dict[str, list[NDArray[np.float32]]] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def start(self, head: Mapping[str, torch.Tensor]) -> None:
        """Begin with an empty stack."""
        self.updates = {name: [] for name in head}
        self.shapes = {name: tuple(value.shape) for name, value in head.items()}

    def add(self, head: Mapping[str, torch.Tensor], result: LocalResult, num_samples: int) -> None:
        """Add one client; one without samples adds an update of zeros and the weight 0."""
        for name, value in head.items():
            self.updates[name].append((result.parameters[name] - value).numpy())
        self.weights.append(float(num_samples))

    def groups(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the arrays of the reply."""
        stack = {
            name: np.stack(values) if values else np.zeros((0, *self.shapes[name]), dtype=np.float32)
            for name, values in self.updates.items()
        }
        return {"stack": stack, "weights": {"weight": np.array(self.weights, dtype=np.float64)}}


def check_stack_size(head: Mapping[str, NDArray[Any]], num_clients: int) -> None:
    """Refuse a stack that would not fit.

    Raises:
        WireError: more than `LARGEST_STACK_BYTES`.
    """
    size = num_clients * sum(value.nbytes for value in head.values())
    if size > LARGEST_STACK_BYTES:
        raise WireError(
            f"the strategy needs every client's update at once: {num_clients:,} clients x "
            f"{size // max(num_clients, 1):,} bytes = {size:,} bytes, more than {LARGEST_STACK_BYTES:,}; "
            "take a strategy that needs sums only, or fewer clients a round (server.clients_per_round)"
        )
