"""FedAvgM, FedAdagrad, FedAdam and FedYogi, against Flower's own on the same updates and the papers' equations.

Flower departs from the paper (arXiv:2003.00295, algorithm 2) in two places: its `v` starts at 0, not at `tau^2`, and
its FedAdam corrects the moments for their start, with the power `round + 1`. The comparison starts ours at 0 too, and
gives ours that corrected learning rate round by round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest

from fedgraft.simulation.flower_identity import claim_identity
from server.flower_strategy import UnpackedStrategy
from strategies.base import Arrays, Replies, Strategy
from strategies.fedadagrad import FedAdagrad
from strategies.fedadam import FedAdam
from strategies.fedavgm import FedAvgM
from strategies.fedyogi import FedYogi
from strategies.flower import FlowerStrategy

NUM_ROUNDS, NUM_CLIENTS = 6, 5


@pytest.fixture(autouse=True, scope="module")
def identity() -> None:
    claim_identity(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)


def updates_of(round_number: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(round_number)
    stack = {"weight": random.standard_normal((NUM_CLIENTS, 3, 4)), "bias": random.standard_normal((NUM_CLIENTS, 3))}
    return stack, random.integers(1, 50, NUM_CLIENTS).astype(np.float64)


def start() -> dict[str, np.ndarray]:
    """Return a head in float64, so that rounding hides nothing."""
    random = np.random.default_rng(99)
    return {"weight": random.standard_normal((3, 4)), "bias": random.standard_normal(3)}


def flowers(name: str, parameters: dict[str, float]) -> list[Arrays]:
    strategy = UnpackedStrategy.of(FlowerStrategy(name=f"flower:{name}", parameters=parameters))
    head: Arrays = start()
    state, heads = strategy.init(head), []
    for number in range(1, NUM_ROUNDS + 1):
        stack, weights = updates_of(number)
        outcome = strategy.aggregate(state, head, (Replies({}, {}, NUM_CLIENTS, stack, weights, np.ones(NUM_CLIENTS)),))
        head, state = outcome.head, outcome.state
        heads.append(head)
    return heads


def ours(strategy_of: Callable[[int], Strategy], state: Arrays | None = None) -> list[Arrays]:
    head: Arrays = start()
    state, heads = strategy_of(1).init(head) if state is None else state, []
    for number in range(1, NUM_ROUNDS + 1):
        stack, weights = updates_of(number)
        sums = {name: np.einsum("k,k...->...", weights, value) for name, value in stack.items()}
        replies = Replies({"update": sums}, {"weight": float(weights.sum())}, NUM_CLIENTS)
        outcome = strategy_of(number).aggregate(state, head, (replies,))
        head, state = outcome.head, outcome.state
        heads.append(head)
    return heads


def zeros(prefixes: tuple[str, ...]) -> Arrays:
    return {f"{prefix}.{name}": np.zeros(value.shape) for prefix in prefixes for name, value in start().items()}


MOMENTS = zeros(("first_moment", "second_moment"))


def corrected(number: int) -> FedAdam:
    rate = 0.3 * np.sqrt(1 - 0.97 ** (number + 1)) / (1 - 0.8 ** (number + 1))
    return FedAdam(learning_rate=float(rate), beta_1=0.8, beta_2=0.97, tau=0.05)


CASES: dict[str, tuple[dict[str, float], Callable[[int], Strategy], Arrays | None]] = {
    "FedAvgM": (
        {"server_momentum": 0.7, "server_learning_rate": 0.5},
        lambda number: FedAvgM(momentum=0.7, learning_rate=0.5),
        None,
    ),
    "FedAdagrad": ({"eta": 0.3, "tau": 0.05}, lambda number: FedAdagrad(learning_rate=0.3, tau=0.05), MOMENTS),
    "FedAdam": ({"eta": 0.3, "beta_1": 0.8, "beta_2": 0.97, "tau": 0.05}, corrected, MOMENTS),
    "FedYogi": (
        {"eta": 0.3, "beta_1": 0.8, "beta_2": 0.97, "tau": 0.05},
        lambda number: FedYogi(learning_rate=0.3, beta_1=0.8, beta_2=0.97, tau=0.05),
        MOMENTS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_same_heads_as_flower_s(name: str) -> None:
    parameters, strategy_of, state = CASES[name]
    for mine, theirs in zip(ours(strategy_of, state), flowers(name, parameters), strict=True):
        for key in theirs:
            np.testing.assert_allclose(mine[key], theirs[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("strategy", "first", "second"),
    [
        # Adagrad: v = 0.01 + 4 = 4.01, step 2 / (2.002498 + 0.1); then v = 5.01, step 1 / (2.238303 + 0.1).
        (FedAdagrad(learning_rate=1, tau=0.1), 0.951249, 0.427661),
        # Adam: m = 1, v = 0.005 + 2 = 2.005, step 1 / (1.415980 + 0.1); then m = 1, v = 1.5025, 1 / (1.225765 + 0.1).
        (FedAdam(learning_rate=1, beta_1=0.5, beta_2=0.5, tau=0.1), 0.659639, 0.754282),
        # Yogi: m = 1, v = 0.01 + 2 = 2.01, step 1 / (1.417745 + 0.1); then v = 2.01 - 0.5 = 1.51, 1 / (1.228821 + 0.1).
        (FedYogi(learning_rate=1, beta_1=0.5, beta_2=0.5, tau=0.1), 0.658872, 0.752547),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_two_rounds_by_hand(strategy: Strategy, first: float, second: float) -> None:
    """Mean updates 2 and then 1 of one parameter; the paper's `v` starts at `tau^2 = 0.01`."""
    head: Arrays = {"w": np.zeros(1)}
    state, seen = strategy.init(head), [0.0]
    for update in (2.0, 1.0):
        replies = Replies({"update": {"w": np.array([3 * update])}}, {"weight": 3.0}, 2)
        outcome = strategy.aggregate(state, head, (replies,))
        head, state = outcome.head, outcome.state
        seen.append(head["w"].item())
    assert np.diff(seen).tolist() == pytest.approx([first, second], abs=2e-6)


def test_fedavgm_by_hand() -> None:
    """Mean updates 1 and 1, momentum 0.5: `v` is 1, then 0.5 + 1 = 1.5; so the head goes 0, 1, 2.5."""
    strategy = FedAvgM(momentum=0.5)
    head: Arrays = {"w": np.zeros(1)}
    state, seen = strategy.init(head), []
    replies = Replies({"update": {"w": np.array([4.0])}}, {"weight": 4.0}, num_clients=2)
    for _ in range(2):
        outcome = strategy.aggregate(state, head, (replies,))
        head, state = outcome.head, outcome.state
        seen.append((head["w"].item(), outcome.metrics["velocity_norm"]))
    assert seen == [(1.0, 1.0), (2.5, 1.5)]
