"""What a reply to `train` carries: sums over the clients, or every client's update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import WireError, listed, nearest

LARGEST_STACK_BYTES = 1_000_000_000
"""Above it a `stack` reply is refused before anything is trained."""

Shapes = Mapping[str, tuple[int, ...]]


class Trained(Protocol):
    """Some clients after their training, however they trained; an `update` is local minus global."""

    @property
    def turns(self) -> NDArray[np.int64]:
        """Their places in the request, `(num_clients,)`."""

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Their training samples, `(num_clients,)`."""

    @property
    def num_steps(self) -> NDArray[np.int64]:
        """Their local steps, `(num_clients,)`."""

    @property
    def mean_losses(self) -> NDArray[np.float64]:
        """Their mean losses over the samples of all steps, `(num_clients,)`; 0 without a step."""

    @property
    def losses_before(self) -> NDArray[np.float64]:
        """Mean loss of the received head over each client's training samples, `(num_clients,)`; costs when asked."""

    @property
    def losses_after(self) -> NDArray[np.float64]:
        """Mean loss of each client's own head over its training samples, `(num_clients,)`; costs when asked."""

    @property
    def scores_after(self) -> NDArray[np.float64]:
        """Mean score of each client's own head over its training samples, `(num_clients,)`; costs when asked."""

    def weighted_sum(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k update_k`, of the head's shapes, without building any client's head if possible."""

    def state_change(self, state: str, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k (new_k - old_k)` of a state that the half keeps, of the head's shapes."""

    def updates(self) -> dict[str, NDArray[np.float32]]:
        """Return every client's update, `(num_clients, *shape)`."""


class SumReply:
    """Additive arrays and scalars over the clients, in float64; no client's head outlives its turn.

    The vocabulary is closed: sums `update` is `sum_k n_k (w_k - w)`, `control` is `sum_k n_k` times the change of
    the client's control variate; scalars `weight` is `sum_k n_k`, `steps` the sum of local steps, `clients` the number
    of clients that trained. What is asked for twice is added once.

    Raises:
        WireError: a sum or scalar is asked for that this release does not have.
    """

    def __init__(self, sums: Sequence[str], scalars: Sequence[str], shapes: Shapes) -> None:
        for kind, asked, known in (("sum", sums, SUMS), ("scalar", scalars, SCALARS)):
            unknown = [name for name in asked if name not in known]
            if unknown:
                raise WireError(
                    f"the strategy asks for the {kind} {listed(unknown)}, this client has {listed(known)}"
                    f"; install the release that the server runs{nearest(unknown[0], known)}"
                )
        self.totals = {name: {part: np.zeros(shape) for part, shape in shapes.items()} for name in sums}
        self.numbers = dict.fromkeys(scalars, 0.0)

    def add(self, trained: Trained) -> None:
        """Add some clients."""
        for name, total in self.totals.items():
            for part, value in SUMS[name](trained).items():
                total[part] += value
        for name in self.numbers:
            self.numbers[name] += SCALARS[name](trained)

    def groups(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the arrays of the reply, rounded once to float32: the wire carries one head a sum."""
        return {
            name: {part: value.astype(np.float32) for part, value in total.items()}
            for name, total in self.totals.items()
        }


SUMS: dict[str, Callable[[Trained], dict[str, NDArray[np.float64]]]] = {
    "update": lambda trained: trained.weighted_sum(trained.num_samples.astype(np.float64)),
    "control": lambda trained: trained.state_change("control", trained.num_samples.astype(np.float64)),
}
SCALARS: dict[str, Callable[[Trained], float]] = {
    "weight": lambda trained: float(trained.num_samples.sum()),
    "steps": lambda trained: float(trained.num_steps.sum()),
    "clients": lambda trained: float((trained.num_samples > 0).sum()),
}


@dataclass
class StackReply:
    """Every client's update, `(num_clients, *shape)` float32, in the order of the request.

    A client that is never added, since it has no samples, keeps an update of zeros and the weight 0.
    """

    num_clients: int
    shapes: Shapes
    numbers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_stack_size(self.shapes, self.num_clients)
        self.stack = {
            name: np.zeros((self.num_clients, *shape), dtype=np.float32) for name, shape in self.shapes.items()
        }
        self.weights = np.zeros(self.num_clients)

    def add(self, trained: Trained) -> None:
        """Add some clients."""
        for name, value in trained.updates().items():
            self.stack[name][trained.turns] = value
        self.weights[trained.turns] = trained.num_samples

    def groups(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the arrays of the reply."""
        return {"stack": dict(self.stack), "weights": {"weight": self.weights}}


def check_stack_size(shapes: Shapes, num_clients: int) -> None:
    """Refuse a stack that would not fit.

    Raises:
        WireError: more than `LARGEST_STACK_BYTES`.
    """
    size = num_clients * sum(4 * int(np.prod(shape)) for shape in shapes.values())
    if size > LARGEST_STACK_BYTES:
        raise WireError(
            f"the strategy needs every client's update at once: {num_clients:,} clients x "
            f"{size // max(num_clients, 1):,} bytes = {size:,} bytes, more than {LARGEST_STACK_BYTES:,}; "
            "take a strategy that needs sums only, or fewer clients a round (server.clients_per_round)"
        )
