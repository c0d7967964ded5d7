"""What a strategy is: a pure value with a plan for each round and a way to combine the replies.

A strategy knows arrays and its own settings and nothing else: no Flower, no I/O, no clients. Its class is
its settings model too, so that a new strategy is one file and one line of the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.recipes import Recipe
from fedgraft.settings import Settings

Task = Literal["classes", "labels", "real"]

Answer = Literal["global", "own"]

Arrays = Mapping[str, NDArray[Any]]
"""Named arrays: a head, an update, a strategy's state."""


@dataclass(frozen=True)
class Half:
    """The client's half of an algorithm: a name from the closed vocabulary in `clients/halves.py`, and its settings.

    It travels as settings, never as code.
    """

    name: str = "plain"
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One exchange in which the clients of a round train.

    Attributes:
        half: the client half that trains.
        sums: names of the additive arrays, each of the head's shapes, that the replies must carry.
        scalars: names of the additive scalars that the replies must carry.
        arrays: what the clients get beside the global head, e.g. `control.weight`.
        keeps_state: whether the half keeps something of each client from round to round, such as control variates.
        loss_power: q, for the sums and scalars that weigh a client by its loss to that power (`fair_update`, ...).
        smoothing: for those that weigh a client by how near its update is to `point.*` in `arrays` (`near_update`,
            `near_weight`): distances below it count as it.
        again: the clients train no more; what they trained in this round's exchange before is summed anew.
    """

    half: Half = Half()
    sums: tuple[str, ...] = ("update",)
    scalars: tuple[str, ...] = ("weight",)
    arrays: Arrays = field(default_factory=dict)
    keeps_state: bool = False
    loss_power: float = 0.0
    smoothing: float = 0.0
    again: bool = False


@dataclass(frozen=True)
class Statistics:
    """One exchange in which the clients give sums of their features; see `fedgraft.wire.statistics`.

    Attributes:
        second_moment: which second moment comes with the first ones.
    """

    second_moment: Literal["none", "diagonal", "shared", "per_class"] = "none"


@dataclass(frozen=True)
class ClassSums:
    """One exchange in which each client gives counts and summed features of its classes, not added to others'."""


@dataclass(frozen=True)
class Mixtures:
    """One exchange in which each client fits Gaussian mixtures to its features of each class; `fedgraft.wire.mixtures`.

    Attributes:
        components: of one class of one client, at most.
        covariance: of each component.
    """

    components: int
    covariance: Literal["spherical", "diagonal", "full"]


@dataclass(frozen=True)
class CrossValidate:
    """One exchange after `Statistics("shared")`: each client is predicted by ridge heads that lack it.

    Attributes:
        relative_penalties: of the heads, as multiples of the mean eigenvalue of the second moment that was summed.
    """

    relative_penalties: tuple[float, ...]


@dataclass(frozen=True)
class LeaveOut:
    """The last exchange of a closed form, if a scenario asks for contributions: the head without each client.

    The server adds it to the plan; how the head is made says `Strategy.recipe`.
    """


Exchange = Request | Statistics | ClassSums | Mixtures | CrossValidate | LeaveOut


@dataclass(frozen=True)
class Replies:
    """What came back for one request, already combined over hosts and shards.

    Attributes:
        sums: for `reply = "sum"`: sum name -> parameter name -> float64 array of the parameter's shape.
            `update` is `sum_k n_k (w_k - w)`.
        scalars: scalar name -> float64 sum over clients; `weight` is `sum_k n_k`.
        stack: for `reply = "stack"`: parameter name -> `(num_clients, *shape)`, every client's update in
            the order of the federation's clients. What `LeaveOut` gave: the head without each.
        weights: `(num_clients,)` float64, the number of training samples of each stacked client.
        train_losses: `(num_clients,)` float64, each stacked client's mean training loss.
        num_clients: how many clients are in it.
        statistics: what `Statistics` gave, summed over clients: name -> float64 array. What `ClassSums` gave, one row a
            client and class, by client, then class: `client`, `class`, `count` `(num_rows,)` int64 and `class_sum`
            `(num_rows, feature_dim)` float64. What `Mixtures` gave, one row a component, see `fedgraft.wire.mixtures`.
        penalties: `(num_penalties,)` what `CrossValidate` tried, absolute.
        scores: `(num_penalties,)` how well each did, more is better: right answers, or minus the squared errors.
        num_samples: training samples that the statistics or the scores are over.
        task: what the targets are.
        federation_clients: all clients that there are, whether or not they took part.
        federation_weight: the number of training samples of all of them.
    """

    sums: Mapping[str, Arrays]
    scalars: Mapping[str, float]
    num_clients: int
    stack: Arrays = field(default_factory=dict)
    weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    train_losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    statistics: Arrays = field(default_factory=dict)
    penalties: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    num_samples: int = 0
    task: Task = "classes"
    federation_clients: int = 0
    federation_weight: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What a round leaves: the new global head, the state for the next round, and metrics to record."""

    head: Arrays
    state: Arrays
    metrics: Mapping[str, float] = field(default_factory=dict)


class CombineError(ValueError):
    """Updates that a strategy can't combine; the text says what came, what is needed, and what to do."""


class Strategy(Settings):
    """The base of every strategy; subclasses add `name: Literal[...]` and their parameters."""

    reply: ClassVar[Literal["sum", "stack"]] = "sum"
    """What replies carry: sums over the host's clients, or every client's update stacked."""

    most_rounds: ClassVar[int | None] = None
    """Rounds after which nothing more can come; None: as many as the scenario says."""

    everybody: ClassVar[bool] = False
    """Whether every round asks all clients, however many the scenario draws for one."""

    answer: ClassVar[Answer] = "global"
    """By what it is judged: the global head, or the clients' own heads where no global one is trained as a whole."""

    leaves_out: ClassVar[Literal["no", "hosts", "server"]] = "no"
    """Who can make its head without one client's samples: hosts, by its `recipe`, or the server, from `ClassSums`."""

    heads: ClassVar[tuple[str, ...]] = ("linear", "cosine", "mlp", "adapter")
    """Kinds of heads that it can make."""

    tasks: ClassVar[tuple[Task, ...]] = ("classes", "labels", "real")
    """Kinds of targets that it can serve."""

    optimizers: ClassVar[tuple[str, ...]] = ("sgd", "adam", "adamw")
    """Local optimisers under which its equations hold."""

    takes_weight_decay: ClassVar[bool] = True
    """Whether its equations hold with weight decay."""

    @property
    def title(self) -> str:
        """What errors and records call it."""
        return str(getattr(self, "name", type(self).__name__))

    @property
    def pools(self) -> bool:
        """Whether all clients' data stand in one place, at one client; in simulations only.

        Hosts must know it before anything is asked of them, so a strategy that pools says it in its settings, too: by
        `data: pooled`.
        """
        return False

    @property
    def trains_blocks(self) -> bool:
        """Whether it can train blocks of the backbone with the head.

        Closed forms can't, which need features that stay as they are, nor can those with heads of the clients' own.
        """
        return self.most_rounds is None and type(self).personal is Strategy.personal

    @property
    def keeps_state(self) -> bool:
        """Whether its clients keep something from round to round, such as control variates or heads of their own."""
        return any(isinstance(request, Request) and request.keeps_state for request in self.plan(self.init({}), 1))

    @property
    def other_half(self) -> str | None:
        """The client half of its first round that does more than plain steps; None: there is none."""
        requests = (request for request in self.plan(self.init({}), 1) if isinstance(request, Request))
        return next((request.half.name for request in requests if request.half.name != "plain"), None)

    def rounds_with(self, pseudo_labels: bool) -> int | None:
        """Return how many rounds are of use; None: any number. With pseudo-labels closed forms gain from more."""
        return None if pseudo_labels and self.most_rounds == 1 else self.most_rounds

    def shortage(self, num_clients: int) -> str | None:
        """Return why a round of so many clients with training samples is too small, and what to do; None: it is not."""
        return None

    def init(self, head: Arrays) -> Arrays:
        """Return the state before the first round; all that lives between rounds, as flat named arrays."""
        return {}

    def plan(self, state: Arrays, round_number: int) -> tuple[Exchange, ...]:
        """Return the exchanges of a round (from 1)."""
        return (Request(),)

    def completed(self, request: Request, head: Arrays, replies: tuple[Replies, ...]) -> Request:
        """Return a request of the plan with what the round's earlier replies add to it; by default nothing."""
        return request

    def personal(self, state: Arrays) -> Request | None:
        """Return how each client has a head of its own, to be evaluated beside the global one; None: there are none.

        Of the request the half counts, and the arrays that go with it.
        """
        return None

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Combine the replies, one a request of the plan, into the next global head.

        Raises:
            CombineError: these replies can't be combined.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it aggregates")

    def recipe(self, head: Arrays, replies: tuple[Replies, ...]) -> Recipe:
        """Return how this round's head is made of the sums of `replies[0]`, where hosts can leave a client out."""
        raise NotImplementedError(f"{type(self).__name__} makes no head of sums")


def mean_update(replies: Replies) -> dict[str, NDArray[np.float64]]:
    """Return the sample-weighted mean update, `sum_k n_k u_k / sum_k n_k`; zeros if nobody had samples."""
    weight = replies.scalars["weight"]
    sums = replies.sums["update"]
    return {name: np.asarray(value) / weight if weight > 0 else np.zeros_like(value) for name, value in sums.items()}


def moved(head: Arrays, step: Arrays) -> dict[str, NDArray[Any]]:
    """Return `head + step`, added in float64 and rounded once to the head's dtype."""
    return {
        name: (np.asarray(value, dtype=np.float64) + step[name]).astype(value.dtype) for name, value in head.items()
    }


def solved(head: Arrays, values: Arrays, temperature: float = 1.0) -> dict[str, NDArray[Any]]:
    """Return a head that was solved for, over a temperature, rounded once to the dtypes of `head`."""
    return {name: (np.asarray(values[name]) / temperature).astype(value.dtype) for name, value in head.items()}
