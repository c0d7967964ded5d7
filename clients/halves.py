"""Client halves: the closed vocabulary of what an algorithm may do inside a client's local step.

A half travels as its name and parameters, never as code. It changes the gradient of a step after clipping
and before the optimiser adds weight decay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from clients.norm import STATE as OWN_NORM
from clients.personal.heads import LAYERS as OWN_LAYER
from clients.personal.heads import STATE as OWN_HEAD
from clients.state.tables import Kind, StateTable
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


def dynamic(parameters: Mapping[str, float]) -> Adjust:
    """Return what all clients share of the half of FedDyn (Acar et al., ICLR 2021, arXiv:2111.04263, algorithm 1).

    A step's gradient is `g - h_k + mu (w - w_start)`: the proximal term, and a control variate `c - c_k` with `c = 0`
    and `c_k = h_k`. After its training a client keeps `h_k - mu (w_k - w_start)`, the paper's new gradient of its loss:
    which it is where the client has come to its minimum. Without weight decay it stays in the span of the features.
    """
    return proximal(parameters)


def sharpness(parameters: Mapping[str, float]) -> Adjust:
    """Return the half of FedSAM (Qu et al., ICML 2022, arXiv:2206.02618, algorithm 1): nothing is added.

    A step takes its gradient at `w + rho g / |g|`, where `g` is that at `w` of the same batch; see `LocalTask.ascent`.
    """
    return plain(parameters)


class ControlVariate:
    """One client's half of SCAFFOLD (Karimireddy et al., ICML 2020, arXiv:1910.06378): adds `c - c_k`.

    Its next control variate is the mean over its steps of the gradients that come here: of the loss over a batch,
    clipped, before anything is added. Under plain SGD that is the paper's option II: the head moves by
    `-lr sum (g + c - c_k)` in K steps, so `c_k - c + (w_start - w) / (K lr)` is the mean of `g`. With momentum, decay
    or Adam the paper's expression would hold more than gradients; this is the same under every optimiser.

    With a pull it is a client's half of FedDyn, together with the proximal term: see `dynamic`.

    Args:
        shared: the federation's control variate `c`, of the head's shapes.
        own: the client's, `c_k`.
        pull: the paper's alpha, for FedDyn; 0: SCAFFOLD.
    """

    def __init__(self, shared: Tensors, own: Tensors, pull: float = 0.0) -> None:
        self._difference = {name: value - own[name] for name, value in shared.items()}
        self._own, self._pull = own, pull
        self._sums = {name: value.new_zeros(value.shape) for name, value in own.items()}
        self._num_steps = 0

    def __call__(self, current: Tensors, start: Tensors) -> None:
        """Note the step's gradient, then add to it."""
        self._num_steps += 1
        for name, parameter in current.items():
            if parameter.grad is not None:
                self._sums[name] += parameter.grad
                parameter.grad.add_(self._difference[name])

    def next(self, update: Tensors) -> dict[str, torch.Tensor]:
        """Return the client's next control variate, after one step or more that made an update."""
        if self._pull:
            return {name: value - self._pull * update[name] for name, value in self._own.items()}
        return {name: value / self._num_steps for name, value in self._sums.items()}


@dataclass(frozen=True)
class Control:
    """The control variates of a round.

    Attributes:
        shared: the federation's.
        own: each client's.
        clients: `(num,)` which rows of `own` are those of the clients that train, in the order of the request.
        pull: 0: a client's next variate is the mean of its gradients; else its own minus `pull` times its update.
    """

    shared: Tensors
    own: StateTable
    clients: NDArray[np.int64]
    pull: float = 0.0

    def of(self, turn: int, adjust: Adjust) -> tuple[ControlVariate, Adjust]:
        """Return one client's half, and it together with another half, which adds after it."""
        import torch

        own = self.own.heads(self.clients[turn : turn + 1])
        tensors = {name: torch.from_numpy(value[0].copy()) for name, value in own.items()}
        variate = ControlVariate(self.shared, tensors, self.pull)

        def both(current: Tensors, start: Tensors) -> None:
            variate(current, start)
            adjust(current, start)

        return variate, both

    def keep(self, turn: int, variate: ControlVariate, update: Tensors) -> dict[str, torch.Tensor]:
        """Write a client's next control variate; return by how much it changed."""
        import torch

        clients, following = self.clients[turn : turn + 1], variate.next(update)
        before = self.own.heads(clients)
        self.own.keep_heads(clients, {name: value[None].numpy() for name, value in following.items()})
        return {name: value - torch.from_numpy(before[name][0]) for name, value in following.items()}


@dataclass(frozen=True)
class HalfKind:
    """What a half is made of.

    Attributes:
        build: makes the part of it that is the same for all clients.
        parameters: the names of its parameters.
        shared: groups of arrays of the head's shapes that the request carries, `<group>.<parameter>` in `extra`.
        state: what each client keeps from round to round, and of which kind; from zeros.
        shares: whether the received head is trained for the reply; otherwise nothing that was trained leaves, but
            for an adapter.
        layers: of a head with an adapter, what trains and leaves (see `clients.personal.layers`).
        personal: which heads of their own clients have under it: none, ones that they keep (`own`), copies of the
            received head that they train when they are evaluated (`fine_tuned`), ones solved then (`blended`), or the
            received one on blocks with batch norm of their own (`normed`).
    """

    build: Callable[[Mapping[str, float]], Adjust]
    parameters: frozenset[str] = frozenset()
    shared: tuple[str, ...] = ()
    state: Mapping[str, Kind] = field(default_factory=dict)
    shares: bool = True
    layers: Literal["", "own", "frozen", "added"] = ""
    personal: Literal["none", "own", "fine_tuned", "blended", "normed"] = "none"


HALVES: dict[str, HalfKind] = {
    "plain": HalfKind(plain),
    "proximal": HalfKind(proximal, frozenset({"mu"})),
    "control_variate": HalfKind(plain, shared=("control",), state={"control": "span"}),
    "alone": HalfKind(plain, state=OWN_HEAD, shares=False, personal="own"),
    "ditto": HalfKind(plain, frozenset({"pull"}), state=OWN_HEAD, personal="own"),
    "own_layer": HalfKind(
        plain, frozenset({"layer_epochs"}), state=OWN_LAYER, shares=False, layers="own", personal="own"
    ),
    "frozen_layer": HalfKind(plain, shares=False, layers="frozen"),
    "added_layer": HalfKind(plain, state=OWN_LAYER, shares=False, layers="added", personal="own"),
    "blended_ridge": HalfKind(plain, frozenset({"penalty", "temperature"}), personal="blended"),
    "fine_tune": HalfKind(plain, frozenset({"epochs"}), personal="fine_tuned"),
    "local_norm": HalfKind(plain, state={OWN_NORM: "norm"}, personal="normed"),
    "sharpness": HalfKind(sharpness, frozenset({"rho"})),
    "dynamic": HalfKind(dynamic, frozenset({"mu"}), state={"control": "span"}),
}
"""Every half by its name."""


def build_half(half: HalfSettings) -> Adjust:
    """Return the half's function for all clients; each client's own part, a control variate, comes beside it.

    Raises:
        WireError: this release has no such half, or its parameters are others.
    """
    if half.name not in HALVES:
        raise WireError(
            f"the strategy asks for the client half {half.name!r}, this client has {listed(HALVES)}"
            f"; install the release that the server runs{nearest(half.name, HALVES)}"
        )
    kind = HALVES[half.name]
    if set(half.parameters) != kind.parameters:
        raise WireError(
            f"client half {half.name!r} came with parameters {listed(sorted(half.parameters)) or 'none'}, "
            f"expected {listed(sorted(kind.parameters)) or 'none'}"
        )
    return kind.build(half.parameters)


def kind_of(half: HalfSettings) -> HalfKind:
    """Return what a half is made of.

    Raises:
        WireError: this release has no such half, or its parameters are others.
    """
    build_half(half)
    return HALVES[half.name]
