"""What a reply to `train` carries: sums over the clients, or every client's update."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clients.local_solver import LocalSolver
from fedgraft.errors import WireError, listed, nearest

LARGEST_STACK_BYTES = 1_000_000_000
"""Above it a `stack` reply is refused before anything is trained."""

LEAST_LOSS = 1e-10
"""A loss below it counts as it, so that its negative powers are numbers."""

Shapes = Mapping[str, tuple[int, ...]]
Sums = dict[str, NDArray[np.float64]]


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

    def square_norms(self) -> NDArray[np.float64]:
        """Return each update's squared norm over the whole head, `(num_clients,)`, likewise; costs when asked."""

    def state_change(self, state: str, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k (new_k - old_k)` of a state that the half keeps, of the head's shapes."""

    def updates(self) -> dict[str, NDArray[np.float32]]:
        """Return every client's update, `(num_clients, *shape)`."""


@dataclass(frozen=True)
class Terms:
    """What some sums need beside the clients that trained.

    Attributes:
        solver: how the clients trained.
        loss_power: q, the power of a client's loss by which fair sums weigh it.
        point: an update, from which sums by nearness take distances.
        smoothing: distances below it count as it.
    """

    solver: LocalSolver | None = None
    loss_power: float = 0.0
    point: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    smoothing: float = 0.0

    @property
    def known_solver(self) -> LocalSolver:
        """Return how the clients trained, of which some sums speak."""
        if self.solver is None:
            raise ValueError("a sum that speaks of the local optimiser needs it")
        return self.solver


@dataclass(frozen=True)
class Weighed:
    """Some clients after their training, with the weights by which sums take their updates, each made once."""

    trained: Trained
    terms: Terms

    @functools.cached_property
    def num_samples(self) -> NDArray[np.float64]:
        """Return each client's samples."""
        return self.trained.num_samples.astype(np.float64)

    @functools.cached_property
    def path_lengths(self) -> NDArray[np.float64]:
        """Return the sum of the weights of each client's gradients in its update, in learning rates."""
        return self.terms.known_solver.path_lengths(self.trained.num_steps)

    @functools.cached_property
    def fair(self) -> NDArray[np.float64]:
        """Return each client's samples times its loss of the received head to the power of the terms."""
        return self.powers(self.terms.loss_power)

    @functools.cached_property
    def nearness(self) -> NDArray[np.float64]:
        """Return each client's samples over the distance of its update from the point."""
        squares = np.zeros(len(self.num_samples))
        for name, value in self.trained.updates().items():
            apart = (value - np.asarray(self.terms.point[name], dtype=np.float64)).reshape(len(value), -1)
            squares += np.einsum("kp,kp->k", apart, apart)
        return np.asarray(self.num_samples / np.maximum(self.terms.smoothing, np.sqrt(squares)))

    @property
    def curvature(self) -> float:
        """Return `sum_k n_k F_k^(q - 1) |w_k - w|^2 / learning rate`."""
        weights = self.powers(self.terms.loss_power - 1)
        return float(weights @ self.trained.square_norms()) / self.terms.known_solver.learning_rate

    def powers(self, power: float) -> NDArray[np.float64]:
        """Return each client's samples times its loss of the received head to a power."""
        return np.asarray(self.num_samples * np.maximum(self.trained.losses_before, LEAST_LOSS) ** power)


def stacked_sum(updates: Mapping[str, NDArray[np.float32]], weights: NDArray[np.float64]) -> Sums:
    """Return `sum_k weights_k update_k` in float64 of updates `(num_clients, *shape)`."""
    return {name: np.tensordot(weights, value.astype(np.float64), axes=1) for name, value in updates.items()}


Part = tuple[dict[str, Sums], dict[str, float]]
"""What some clients add to a reply: sums, and scalars."""


class SumReply:
    """Additive arrays and scalars over the clients, in float64; no client's head outlives its turn.

    The vocabulary is closed; what is asked for twice is added once. With client k's samples `n_k`, the head `w` that
    it received and the head `w_k` that it made:

    | sum | |
    | --- | --- |
    | `update` | `sum_k n_k (w_k - w)` |
    | `control` | `sum_k n_k` times the change of the client's control variate |
    | `normalised_update` | `sum_k n_k (w_k - w) / a_k`; `a_k` are the path lengths of `clients.local_solver` |
    | `fair_update` | `sum_k n_k F_k^q (w_k - w)`; `F_k` is the mean loss of `w` over the client's training samples |
    | `near_update` | `sum_k n_k (w_k - w) / d_k`; `d_k` is the distance of `w_k - w` from the request's point |

    | scalar | |
    | --- | --- |
    | `weight` | `sum_k n_k` |
    | `steps`, `clients` | the sum of local steps, and the number of clients that trained |
    | `path_length` | `sum_k n_k a_k` |
    | `square_norm` | `sum_k n_k |w_k - w|^2` |
    | `fair_weight` | `sum_k n_k F_k^q` |
    | `fair_curvature` | `sum_k n_k F_k^(q - 1) |w_k - w|^2 / learning rate` |
    | `near_weight` | `sum_k n_k / d_k` |

    Raises:
        WireError: a sum or scalar is asked for that this release does not have.
    """

    def __init__(self, sums: Sequence[str], scalars: Sequence[str], shapes: Shapes, terms: Terms | None = None) -> None:
        for kind, asked, known in (("sum", sums, SUMS), ("scalar", scalars, SCALARS)):
            unknown = [name for name in asked if name not in known]
            if unknown:
                raise WireError(
                    f"the strategy asks for the {kind} {listed(unknown)}, this client has {listed(known)}"
                    f"; install the release that the server runs{nearest(unknown[0], known)}"
                )
        self.totals = {name: {part: np.zeros(shape) for part, shape in shapes.items()} for name in sums}
        self.numbers = dict.fromkeys(scalars, 0.0)
        self.terms = terms or Terms()

    def add(self, trained: Trained) -> None:
        """Add some clients."""
        self.add_part(self.part(trained))

    def part(self, trained: Trained) -> Part:
        """Return what some clients add; several threads may ask at once."""
        some = Weighed(trained, self.terms)
        return {name: SUMS[name](some) for name in self.totals}, {name: SCALARS[name](some) for name in self.numbers}

    def add_part(self, part: Part) -> None:
        """Add what `part` returned; the order of additions decides the last bits."""
        sums, numbers = part
        for name, total in self.totals.items():
            for parameter, value in sums[name].items():
                total[parameter] += value
        for name, number in numbers.items():
            self.numbers[name] += number

    def groups(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Return the arrays of the reply, rounded once to float32: the wire carries one head a sum."""
        return {
            name: {part: value.astype(np.float32) for part, value in total.items()}
            for name, total in self.totals.items()
        }


SUMS: dict[str, Callable[[Weighed], Sums]] = {
    "update": lambda some: some.trained.weighted_sum(some.num_samples),
    "control": lambda some: some.trained.state_change("control", some.num_samples),
    "normalised_update": lambda some: some.trained.weighted_sum(some.num_samples / some.path_lengths),
    "fair_update": lambda some: some.trained.weighted_sum(some.fair),
    "near_update": lambda some: some.trained.weighted_sum(some.nearness),
}
SCALARS: dict[str, Callable[[Weighed], float]] = {
    "weight": lambda some: float(some.num_samples.sum()),
    "steps": lambda some: float(some.trained.num_steps.sum()),
    "clients": lambda some: float((some.num_samples > 0).sum()),
    "path_length": lambda some: float(some.num_samples @ some.path_lengths),
    "square_norm": lambda some: float(some.num_samples @ some.trained.square_norms()),
    "fair_weight": lambda some: float(some.fair.sum()),
    "fair_curvature": lambda some: some.curvature,
    "near_weight": lambda some: float(some.nearness.sum()),
}
NEAR = frozenset({"near_update", "near_weight"})
"""Sums and scalars by nearness to a point; they need every client's update at hand, and are asked for repeatedly."""


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
        self.add_part(self.part(trained))

    def part(self, trained: Trained) -> Part:
        """Put some clients in their places; several threads may do so at once, as they have others."""
        for name, value in trained.updates().items():
            self.stack[name][trained.turns] = value
        self.weights[trained.turns] = trained.num_samples
        return {}, {}

    def add_part(self, part: Part) -> None:
        """Do nothing: the clients are in their places."""

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
