"""One round of a strategy with toy clients and no messages: what is wrong with it shows before a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.models.losses import Task
from fedgraft.wire.mixtures import mixture_shapes
from fedgraft.wire.statistics import statistics_shapes
from strategies.base import (
    Arrays,
    ClassSums,
    CrossValidate,
    Exchange,
    Mixtures,
    Outcome,
    Replies,
    Request,
    Statistics,
    Strategy,
)

NUM_OUTPUTS, FEATURE_DIM = 2, 3
MOST_CLIENTS = 100


def check_by_a_dry_round(strategy: Strategy) -> None:
    """Run one round with two clients, or as many as it asks for, of a linear head of 2 outputs and 3 features.

    Raises:
        ValueError: a function raised, or returned what the server can't use; says which, and what came.
    """
    head: Arrays = {
        "weight": np.zeros((NUM_OUTPUTS, FEATURE_DIM), dtype=np.float32),
        "bias": np.zeros(NUM_OUTPUTS, dtype=np.float32),
    }
    task: Task = strategy.tasks[0]
    state = _called(strategy, "init", head)
    _check_arrays(state, f"{strategy.title}.init")
    plan = _called(strategy, "plan", state, 1)
    if not isinstance(plan, tuple) or not plan or not all(isinstance(exchange, Exchange) for exchange in plan):
        raise ValueError(
            f"{strategy.title}.plan returned {_shown(plan)}; expected a tuple of at least one of strategies.base: "
            "Request, Statistics, ClassSums, Mixtures, CrossValidate"
        )
    num_clients = next((n for n in range(2, MOST_CLIENTS + 1) if _called(strategy, "shortage", n) is None), 2)
    replies: tuple[Replies, ...] = ()
    for exchange in plan:
        if isinstance(exchange, Request):
            exchange = _called(strategy, "completed", exchange, head, replies)
        replies = (*replies, _replies(exchange, strategy, head, task, num_clients))
    outcome = _called(strategy, "aggregate", state, head, replies)
    if not isinstance(outcome, Outcome):
        raise ValueError(f"{strategy.title}.aggregate returned {_shown(outcome)}; expected strategies.base.Outcome")
    _check_arrays(outcome.head, f"{strategy.title}.aggregate: head")
    _check_arrays(outcome.state, f"{strategy.title}.aggregate: state")
    came = {name: np.shape(value) for name, value in outcome.head.items()}
    expected = {name: value.shape for name, value in head.items()}
    if came != expected:
        raise ValueError(
            f"{strategy.title}.aggregate: head has the shapes {came}; expected those it was given, {expected}"
        )
    wrong = [name for name, value in outcome.metrics.items() if not isinstance(value, int | float)]
    if wrong:
        raise ValueError(f"{strategy.title}.aggregate: metrics {', '.join(wrong)} are no numbers; write float(...)")


def _called(strategy: Strategy, function: str, *arguments: Any) -> Any:
    try:
        return getattr(strategy, function)(*arguments)
    except Exception as error:  # whatever the user's code raises
        kind = type(error).__name__
        text = f"{strategy.title}.{function} raised {kind} in a dry round with toy clients: {error}"
        raise ValueError(text) from error


def _check_arrays(values: Any, what: str) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} is {_shown(values)}; expected named arrays, {{name: numpy array}}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray | np.number) or value.dtype.kind not in "biuf":
            raise ValueError(f"{what}: {name!r} is {_shown(value)}; expected a numpy array of numbers")
        if not np.isfinite(value).all():
            raise ValueError(f"{what}: {name} holds values that are not finite (NaN or infinite)")


def _shown(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r}"[:100]


def _replies(exchange: Exchange, strategy: Strategy, head: Arrays, task: Task, num_clients: int) -> Replies:
    """Return what clients would answer: the first has three samples, the others one each."""
    weights = np.array([3.0, *[1.0] * (num_clients - 1)])
    total = float(weights.sum())
    facts: dict[str, Any] = {"num_clients": num_clients, "task": task, "num_samples": int(total)}
    facts |= {"federation_clients": num_clients, "federation_weight": total}
    if isinstance(exchange, Request):
        steps = 0.1 * np.cos(np.arange(num_clients))
        stack = {name: np.multiply.outer(steps, np.ones(value.shape)) for name, value in head.items()}
        if strategy.reply == "stack":
            losses = np.linspace(0.5, 0.7, num_clients)
            return Replies({}, {"weight": total}, stack=stack, weights=weights, train_losses=losses, **facts)
        update = {name: np.tensordot(weights, value, 1) for name, value in stack.items()}
        return Replies(dict.fromkeys(exchange.sums, update), dict.fromkeys(exchange.scalars, total), **facts)
    if isinstance(exchange, CrossValidate):
        tried = np.array(exchange.relative_penalties)
        return Replies({}, {}, penalties=tried, scores=np.arange(len(tried), dtype=np.float64), **facts)
    return Replies({}, {}, statistics=_statistics(exchange, task), **facts)


def _statistics(exchange: Exchange, task: Task) -> dict[str, NDArray[Any]]:
    """Return sums over four samples, three of the first client and one of the second."""
    features = np.array([[1.0, 0.0, 2.0], [0.5, 1.0, -1.0], [-1.0, 0.3, 0.0], [0.0, -2.0, 1.0]])
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    if isinstance(exchange, ClassSums):
        sums = np.stack([features[[0, 2]].sum(axis=0), features[1], features[3]])
        return {
            "client": np.array([0, 0, 1]),
            "class": np.array([0, 1, 1]),
            "count": np.array([2, 1, 1]),
            "class_sum": sums,
        }
    if isinstance(exchange, Mixtures):
        shape = mixture_shapes(3, FEATURE_DIM, exchange.covariance)["covariance"]
        spread = np.broadcast_to(np.eye(FEATURE_DIM) if exchange.covariance == "full" else 1.0, shape)
        rows = {"client": np.array([0, 0, 1]), "class": np.array([0, 1, 1]), "count": np.array([2, 1, 1])}
        numbers = {"share": np.ones(3), "mean": features[:3], "covariance": spread}
        return rows | {name: value.astype(np.float32) for name, value in numbers.items()}
    second = exchange.second_moment if isinstance(exchange, Statistics) else "none"
    by_class = np.einsum("nc,nd,ne->cde", targets, features, features)
    known: dict[str, NDArray[Any]] = {
        "class_count": targets.sum(axis=0),
        "class_sum": targets.T @ features,
        "count": np.array(4.0),
        "feature_sum": features.sum(axis=0),
        "target_sum": targets.sum(axis=0),
        "target_square": targets.sum(axis=0),
        "cross_moment": targets.T @ features,
        "square_sum": targets.T @ np.square(features) if task == "classes" else np.square(features).sum(axis=0),
        "second_moment": by_class if second == "per_class" else by_class.sum(axis=0),
    }
    return {name: known[name] for name in statistics_shapes(NUM_OUTPUTS, FEATURE_DIM, second, task)}
