"""Flower's own strategies, by class name, with unpacked replies: one message a client, as they expect.

Flower's strategies are objects that keep their state in attributes. To make one a pure value, each call
builds a fresh object, puts the state back, calls its `aggregate_train`, and takes the state out again.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, MetricRecordValues, RecordDict
from flwr.app.exception import AppExitException
from flwr.serverapp import Grid
from flwr.serverapp import strategy as flwr_strategies
from flwr.serverapp.strategy import Strategy as FlwrStrategy
from numpy.typing import NDArray

from fedgraft.errors import Fault, FedGraftError, ScenarioError, listed, nearest
from strategies.base import Arrays, Half, Outcome, Replies, Request, Strategy
from strategies.flower import FlowerStrategy

REFUSED = {
    "FedXgbBagging": "it combines trees, not heads",
    "FedXgbCyclic": "it combines trees, not heads",
    "DifferentialPrivacyClientSideAdaptiveClipping": "it wraps another strategy and needs a client half of its own",
    "DifferentialPrivacyClientSideFixedClipping": "it wraps another strategy and needs a client half of its own",
    "DifferentialPrivacyServerSideAdaptiveClipping": "it wraps another strategy",
    "DifferentialPrivacyServerSideFixedClipping": "it wraps another strategy",
}
_ROUNDS = "rounds"  # in the state, beside names of the form attribute:kind:key
_OURS = ("fraction_train", "fraction_evaluate", "min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


def flower_classes() -> dict[str, type[FlwrStrategy]]:
    """Return Flower's strategy classes that can be named in a scenario."""
    found = {name: getattr(flwr_strategies, name) for name in flwr_strategies.__all__}
    return {
        name: value
        for name, value in sorted(found.items())
        if inspect.isclass(value)
        and issubclass(value, FlwrStrategy)
        and not inspect.isabstract(value)
        and name not in REFUSED
        and name != "FedOpt"
    }


class UnpackedStrategy(FlowerStrategy):
    """Our seam around one of Flower's strategy classes."""

    @classmethod
    def of(cls, settings: FlowerStrategy) -> UnpackedStrategy:
        """Return the strategy that the settings name.

        Raises:
            ScenarioError: no such class, one that can't work here, or parameters that it does not take.
        """
        strategy = cls(name=settings.name, parameters=settings.parameters)
        strategy.build()
        return strategy

    @property
    def class_name(self) -> str:
        """The name of Flower's class."""
        return self.name.partition(":")[2]

    def build(self) -> FlwrStrategy:
        """Return a fresh object of Flower's class."""
        classes = flower_classes()
        if self.class_name in REFUSED:
            raise _fault("strategy.name", f"flower:{self.class_name} can't be used here: {REFUSED[self.class_name]}")
        if self.class_name not in classes:
            near = nearest(self.class_name, classes)
            raise _fault("strategy.name", f"Flower has no strategy {self.class_name!r}{near}; it has {listed(classes)}")
        known = inspect.signature(classes[self.class_name]).parameters
        allowed = [name for name in known if name not in _OURS and not name.endswith(("_key", "_fn"))]
        unknown = [name for name in self.parameters if name not in allowed]
        if unknown:
            raise _fault(
                f"strategy.parameters.{unknown[0]}",
                f"{self.class_name} takes no parameter {unknown[0]!r}{nearest(unknown[0], allowed)}; "
                f"it takes {listed(allowed) or 'none'} (who takes part is set in the block 'server')",
            )
        # FedGraft has chosen the clients already, so Flower's own choice among them takes all.
        everybody = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
        try:
            return classes[self.class_name](**{**everybody, **self.parameters})
        except (TypeError, ValueError) as error:
            raise _fault("strategy.parameters", f"{self.class_name} refuses its parameters: {error}") from error

    def init(self, head: Arrays) -> Arrays:
        """Return the number of rounds so far, which some classes need (FedAdam's bias correction)."""
        return {_ROUNDS: np.array(0, dtype=np.int64)}

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        """Return one exchange; FedProx's `proximal_mu` becomes our proximal client half."""
        mu = float(getattr(self.build(), "proximal_mu", 0.0))
        return (Request(half=Half("proximal", {"mu": mu}) if mu else Half(), sums=(), scalars=()),)

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        """Call Flower's `configure_train` (some classes keep the head there) and `aggregate_train`.

        Raises:
            FedGraftError: Flower's class could make nothing of these replies.
        """
        round_number = int(state[_ROUNDS]) + 1
        rounds = {_ROUNDS: np.array(round_number, dtype=np.int64)}
        messages = list(_messages(head, replies[0]))
        if not messages:
            return Outcome(head=head, state={**state, **rounds})
        strategy = self.build()
        _put_state(strategy, {name: value for name, value in state.items() if name != _ROUNDS})
        arrays = ArrayRecord({name: Array(value) for name, value in head.items()})
        try:
            with _frozen_garbage():
                strategy.configure_train(round_number, arrays, ConfigRecord(), _Nodes(len(messages)))
                aggregated, metrics = strategy.aggregate_train(round_number, messages)
        except (AppExitException, ArithmeticError, AssertionError, IndexError, ValueError) as error:
            raise self._unable(len(messages), f"{type(error).__name__}: {error}") from error
        if aggregated is None:
            raise self._unable(len(messages), "it needs more clients with training samples in a round")
        new = {name: aggregated[name].numpy().astype(value.dtype) for name, value in head.items()}
        if not all(np.isfinite(value).all() for value in new.values()):
            raise self._unable(len(messages), "the head that it gave is not finite")
        numbers = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, int | float)}
        numbers.pop("train_loss", None)
        return Outcome(head=new, state=_take_state(strategy) | rounds, metrics=numbers)

    def _unable(self, num_clients: int, reason: str) -> FedGraftError:
        return FedGraftError(
            f"Flower's {self.class_name} could not combine the updates of {num_clients} clients: {reason}; "
            "change strategy.parameters, or who takes part (server.clients_per_round, data.partition)"
        )


@contextlib.contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Keep what lives already out of garbage collection.

    Some classes (QFedAvg, Bulyan) collect once a client, which takes 28 ms beside torch: 280 s at 10,000 clients.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _fault(key: str, message: str) -> ScenarioError:
    return ScenarioError("scenario", [Fault(key, message)])


def _messages(head: Arrays, replies: Replies) -> Iterable[Message]:
    """Yield one reply a client that has training samples: its head, its weight and its training loss."""
    for client in np.flatnonzero(replies.weights):
        arrays = {name: Array(np.asarray(head[name] + stack[client])) for name, stack in replies.stack.items()}
        metrics: dict[str, MetricRecordValues] = {
            "num-examples": int(replies.weights[client]),
            "train_loss": float(replies.train_losses[client]),
        }
        content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})
        yield Message(content, dst_node_id=int(client) + 1, message_type="train")


class _Nodes(Grid):
    """A grid of the clients that took part, for `configure_train`; nothing is sent through it."""

    def __init__(self, num_nodes: int) -> None:
        self._num_nodes = num_nodes

    def get_node_ids(self) -> Iterable[int]:
        return range(1, self._num_nodes + 1)

    def set_run(self, run: Any) -> None:
        raise RuntimeError("this grid only counts nodes")

    @property
    def run(self) -> Any:
        raise RuntimeError("this grid only counts nodes")

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise RuntimeError("this grid only counts nodes")

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise RuntimeError("this grid only counts nodes")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise RuntimeError("this grid only counts nodes")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise RuntimeError("this grid only counts nodes")


def _take_state(strategy: FlwrStrategy) -> dict[str, NDArray[Any]]:
    """Return a strategy's arrays and records as flat names: `attribute:kind:key`."""
    state: dict[str, NDArray[Any]] = {}
    for attribute, value in vars(strategy).items():
        if isinstance(value, ArrayRecord):
            state |= {f"{attribute}:record:{key}": array.numpy() for key, array in value.items()}
        elif isinstance(value, Mapping):
            state |= {f"{attribute}:dict:{key}": item for key, item in value.items() if isinstance(item, np.ndarray)}
        elif isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
            state |= {f"{attribute}:list:{number:04d}": item for number, item in enumerate(value)}
    return {name: np.asarray(value) for name, value in state.items()}


def _put_state(strategy: FlwrStrategy, state: Arrays) -> None:
    """Set a strategy's attributes from the flat names that `_take_state` made."""
    attributes: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for name, value in state.items():
        attribute, kind, key = name.split(":", 2)
        attributes.setdefault((attribute, kind), {})[key] = value
    for (attribute, kind), items in attributes.items():
        restored: Any = dict(items)
        if kind == "record":
            restored = ArrayRecord({key: Array(np.asarray(item)) for key, item in items.items()})
        elif kind == "list":
            restored = [items[key] for key in sorted(items)]
        setattr(strategy, attribute, restored)


def runnable(strategy: Strategy) -> Strategy:
    """Return a strategy as an adapter takes it: one of Flower's unpacked, any other as it is."""
    return UnpackedStrategy.of(strategy) if isinstance(strategy, FlowerStrategy) else strategy
