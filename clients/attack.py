"""Attacks: clients of a simulation that lie, so that strategies can be tested against them.

An attacker trains like any other client and then sends `factor u + offset` in place of its update `u`. Both are a
number and an array for each liar of a cohort that trained at once, never an object a client, and both are linear in
what sums need, so that no honest client's head is built. Its number of samples, its losses and its control variates
stay true: only its update, or under `label-flip` its labels, is a lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.replies import Shapes, Trained
from fedgraft.attack_settings import (
    ALittleIsEnough,
    AttackSettings,
    GaussianNoise,
    LabelFlip,
    ScaledUpdate,
    SignFlip,
)
from fedgraft.models.losses import Task
from fedgraft.randomness import rng

Head = Mapping[str, NDArray[Any]]


class Hostile:
    """Clients that trained at once, some of which send another update than they made.

    Args:
        trained: the clients as they trained.
        liars: places of the liars among them, ascending.
        factor: what the liars multiply their updates by; 0 where there are offsets.
        offsets: what they add, `(num_liars, *shape)` each; None: nothing.
    """

    def __init__(
        self, trained: Trained, liars: NDArray[np.int64], factor: float, offsets: Mapping[str, NDArray[Any]] | None
    ) -> None:
        self._trained, self._liars, self._offsets = trained, liars, offsets
        self._factors = np.ones(len(trained.turns))
        self._factors[liars] = factor

    @property
    def turns(self) -> NDArray[np.int64]:
        """Their places in the request, `(num_clients,)`."""
        return self._trained.turns

    @property
    def num_samples(self) -> NDArray[np.int64]:
        """Their training samples, `(num_clients,)`."""
        return self._trained.num_samples

    @property
    def num_steps(self) -> NDArray[np.int64]:
        """Their local steps, `(num_clients,)`."""
        return self._trained.num_steps

    @property
    def mean_losses(self) -> NDArray[np.float64]:
        """Their mean losses over the samples of all steps, `(num_clients,)`."""
        return self._trained.mean_losses

    @property
    def losses_before(self) -> NDArray[np.float64]:
        """Mean loss of the received head over each client's training samples, `(num_clients,)`."""
        return self._trained.losses_before

    @property
    def losses_after(self) -> NDArray[np.float64]:
        """Mean loss of the head that each client made, not of what it sends, `(num_clients,)`."""
        return self._trained.losses_after

    @property
    def scores_after(self) -> NDArray[np.float64]:
        """Mean score of the head that each client made, not of what it sends, `(num_clients,)`."""
        return self._trained.scores_after

    def state_change(self, state: str, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the weighted change of a state, which is true."""
        return self._trained.state_change(state, weights)

    def weighted_sum(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `sum_k weights_k (factor_k u_k + offset_k)`."""
        sums = self._trained.weighted_sum(weights * self._factors)
        for name, offset in (self._offsets or {}).items():
            sums[name] = sums[name] + np.einsum("k,k...->...", weights[self._liars], offset)
        return sums

    def square_norms(self) -> NDArray[np.float64]:
        """Return each sent update's squared norm; with offsets the factor is 0, so there are no mixed terms."""
        squares = np.square(self._factors) * self._trained.square_norms()
        for offset in (self._offsets or {}).values():
            squares[self._liars] += np.square(offset, dtype=np.float64).sum(axis=tuple(range(1, offset.ndim)))
        return squares

    def updates(self) -> dict[str, NDArray[np.float32]]:
        """Return what each client sends, `(num_clients, *shape)`."""
        sent = {}
        for name, value in self._trained.updates().items():
            factors = self._factors.reshape(-1, *[1] * (value.ndim - 1))
            sent[name] = (value * factors).astype(np.float32)
            if self._offsets is not None:
                sent[name][self._liars] += self._offsets[name]
        return sent


@dataclass(frozen=True)
class Attack:
    """The attack of a scenario, as a host's clients take part in it.

    Attributes:
        settings: which attack.
        seed: the scenario's.
        lies: `(num_clients,)` which of the host's clients lie.
        names: the clients' names.
    """

    settings: AttackSettings
    seed: int
    lies: NDArray[np.bool_]
    names: Sequence[str]

    def flips_labels(self, round_number: int) -> bool:
        """Whether liars train on wrong labels in a round."""
        return self.flips_labels_at_all and round_number >= self.settings.from_round

    @property
    def flips_labels_at_all(self) -> bool:
        """Whether liars train on wrong labels in any round."""
        return isinstance(self.settings, LabelFlip)

    def sent(
        self, trained: Iterable[Trained], index: NDArray[np.int64], round_number: int, shapes: Shapes
    ) -> Iterator[Trained]:
        """Yield clients that trained, as what they send.

        Args:
            trained: the clients of one request.
            index: the clients of the request, positions among the host's; `turns` point into it.
            round_number: the round.
            shapes: the head's.
        """
        settings = self.settings
        if round_number < settings.from_round or isinstance(settings, LabelFlip):
            yield from trained
        elif isinstance(settings, ALittleIsEnough):
            yield from self._agreed(list(trained), index, settings)
        else:
            for clients in trained:
                liars = self._liars(clients, index)
                if isinstance(settings, GaussianNoise):
                    chosen = index[clients.turns[liars]]
                    noise = _noise(self.seed, round_number, [self.names[client] for client in chosen], shapes, settings)
                    yield Hostile(clients, liars, 0.0, noise)
                else:
                    yield Hostile(clients, liars, _factor(settings), None)

    def _liars(self, clients: Trained, index: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.flatnonzero(self.lies[index[clients.turns]])

    def _agreed(
        self, trained: Sequence[Trained], index: NDArray[np.int64], settings: ALittleIsEnough
    ) -> Iterator[Trained]:
        """Yield clients whose liars all send one update, made of the honest ones of the same request."""
        liars = [self._liars(clients, index) for clients in trained]
        num_liars = sum(map(len, liars))
        num_honest = sum(len(clients.turns) for clients in trained) - num_liars
        if not num_liars or not num_honest:  # nobody to hide, or nobody to hide among
            yield from trained
            return
        mean, deviation = _spread([clients.updates() for clients in trained], liars, num_honest)
        z = hidden_deviations(num_honest + num_liars, num_liars) if settings.deviations is None else settings.deviations
        agreed = {name: mean[name] - z * deviation[name] for name in mean}
        for clients, places in zip(trained, liars, strict=True):
            offsets = {name: np.broadcast_to(value, (len(places), *value.shape)) for name, value in agreed.items()}
            yield Hostile(clients, places, 0.0, offsets)


def flipped(targets: NDArray[Any], rows: NDArray[np.int64], task: Task, num_outputs: int) -> NDArray[Any]:
    """Return targets of which some rows are wrong: `C - 1 - y` for classes, `1 - y` for labels, `-y` for real ones."""
    wrong = np.array(targets)
    if task == "real":
        wrong[rows] = -wrong[rows]
    else:
        wrong[rows] = (num_outputs if task == "classes" else 2) - 1 - wrong[rows].astype(np.int64)
    return wrong


def hidden_deviations(num_clients: int, num_liars: int) -> float:
    """Return the paper's z: how many standard deviations a lie may be off and still have a majority behind it.

    Baruch et al., algorithm 3: `s = floor(n / 2 + 1) - m` honest clients must be further off than the liars, so z is
    the largest with `Phi(z) < (n - m - s) / (n - m)`; at least 0. Where liars are the majority, s counts as 1.
    """
    num_honest = num_clients - num_liars
    supporters = max(num_clients // 2 + 1 - num_liars, 1)
    share = (num_honest - supporters) / num_honest
    return max(0.0, NormalDist().inv_cdf(share)) if share > 0 else 0.0


def _factor(settings: AttackSettings) -> float:
    if isinstance(settings, SignFlip):
        return -settings.scale
    return settings.scale if isinstance(settings, ScaledUpdate) else 1.0


def _noise(
    seed: int, round_number: int, names: Sequence[str], shapes: Shapes, settings: GaussianNoise
) -> dict[str, NDArray[np.float64]]:
    """Return each liar's noise, `(num_liars, *shape)`, a pure function of seed, round and client."""
    noise = {name: np.zeros((len(names), *shape)) for name, shape in shapes.items()}
    for place, client in enumerate(names):
        generator = rng(seed, "attack-noise", round_number, client)
        for name in sorted(shapes):
            noise[name][place] = settings.standard_deviation * generator.standard_normal(shapes[name])
    return noise


def _spread(
    updates: Sequence[Head], liars: Sequence[NDArray[np.int64]], num_honest: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Return the honest updates' mean and standard deviation (with `n` in its denominator), by parameter."""
    honest = [
        {name: np.delete(value, places, axis=0).astype(np.float64) for name, value in part.items()}
        for part, places in zip(updates, liars, strict=True)
    ]
    mean, deviation = {}, {}
    for name in updates[0]:
        mean[name] = np.sum([part[name].sum(axis=0) for part in honest], axis=0) / num_honest
        square = np.sum([np.square(part[name] - mean[name]).sum(axis=0) for part in honest], axis=0)
        deviation[name] = np.sqrt(square / num_honest)
    return mean, deviation
