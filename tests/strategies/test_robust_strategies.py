"""Robust strategies against Flower's own, SciPy, plain loops over the papers' sentences, and laws that they obey."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy.bulyan import Bulyan as FlowersBulyan
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from fedgraft.simulation.flower_identity import claim_identity
from server.flower_strategy import UnpackedStrategy
from strategies.base import Arrays, CombineError, Replies, Request, Strategy
from strategies.bulyan import Bulyan
from strategies.centred_clipping import CentredClipping
from strategies.flower import FlowerStrategy
from strategies.geometric_median import GeometricMedian
from strategies.krum import Krum
from strategies.median import Median
from strategies.multi_krum import MultiKrum
from strategies.norm_clipping import NormClipping
from strategies.stacked import squared_distances
from strategies.trimmed_mean import TrimmedMean

HEAD: Arrays = {"weight": np.zeros((3, 4)), "bias": np.zeros(3)}
ROBUST: tuple[Strategy, ...] = (
    Median(),
    TrimmedMean(fraction=0.2),
    Krum(num_malicious=1),
    MultiKrum(num_malicious=1, num_selected=3),
    Bulyan(num_malicious=1),
    GeometricMedian(iterations=200),
    NormClipping(max_norm=1e9),
    CentredClipping(radius=1e9),
)


def named(strategy: Strategy) -> str:
    return str(getattr(strategy, "name", ""))


@pytest.fixture(autouse=True, scope="module")
def identity() -> None:
    claim_identity(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)


def updates(num_clients: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"weight": random.standard_normal((num_clients, 3, 4)), "bias": random.standard_normal((num_clients, 3))}


def replies_of(stack: Arrays, weights: Any = None) -> Replies:
    num_clients = len(next(iter(stack.values())))
    weights = np.full(num_clients, 7.0) if weights is None else np.asarray(weights, dtype=np.float64)
    return Replies({}, {}, num_clients, stack, weights, np.ones(num_clients))


def sums_of(request: Request, stack: Arrays, weights: Any = None) -> Replies:
    """Return the sums by nearness of a stack, client after client."""
    whole = replies_of(stack, weights)
    sums, total = {name: np.zeros(value.shape[1:]) for name, value in stack.items()}, 0.0
    for client, weight in enumerate(whole.weights):
        apart = [np.ravel(value[client] - request.arrays[f"point.{name}"]) for name, value in stack.items()]
        near = weight / max(request.smoothing, float(np.linalg.norm(np.concatenate(apart))))
        sums, total = {name: value + near * stack[name][client] for name, value in sums.items()}, total + near
    return Replies({"near_update": sums}, {"near_weight": total}, whole.num_clients)


def step(strategy: Strategy, stack: Arrays, weights: Any = None) -> Arrays:
    """Return by how much a strategy moves a head of zeros."""
    head = {name: np.zeros(value.shape[1:]) for name, value in stack.items()}
    state = strategy.init(head)
    replies: tuple[Replies, ...] = ()
    for request in strategy.plan(state, 1):
        if strategy.reply == "stack":
            replies = (*replies, replies_of(stack, weights))
        else:
            replies = (*replies, sums_of(strategy.completed(request, head, replies), stack, weights))
    return strategy.aggregate(state, head, replies).head


def flowers(name: str, parameters: dict[str, float], stack: Arrays) -> Arrays:
    strategy = UnpackedStrategy.of(FlowerStrategy(name=f"flower:{name}", parameters=parameters))
    return strategy.aggregate(strategy.init(HEAD), HEAD, (replies_of(stack),)).head


def assert_same(one: Arrays, other: Arrays, tolerance: float = 1e-9) -> None:
    assert set(one) == set(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("num_clients", [7, 8, 15])
@pytest.mark.parametrize(
    ("strategy", "name", "parameters"),
    [
        (Median(), "FedMedian", {}),
        (TrimmedMean(fraction=0.25), "FedTrimmedAvg", {"beta": 0.25}),
        (Krum(num_malicious=2), "Krum", {"num_malicious_nodes": 2}),
        (MultiKrum(num_malicious=2, num_selected=4), "MultiKrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_same_as_flower_s(strategy: Strategy, name: str, parameters: dict[str, float], num_clients: int) -> None:
    """Clients of equal size: Flower weighs the updates that Multi-Krum chose by their samples, the paper does not."""
    stack = updates(num_clients, seed=num_clients)
    assert_same(step(strategy, stack), flowers(name, parameters, stack))


@pytest.mark.parametrize(("num_clients", "num_malicious"), [(15, 3), (18, 3), (20, 4)])
def test_bulyan_is_flower_s_with_the_paper_s_selection(
    num_clients: int, num_malicious: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower selects at once unless it is given a rule; the paper takes Krum's choice out, one after another.

    With f = 3 no two clients are each other's only neighbour, so that no two scores are equal.
    """

    def one_by_one(contents: list[Any], num_malicious_nodes: int, num_nodes_to_select: int) -> list[Any]:
        left, chosen = list(contents), []
        while len(chosen) < num_nodes_to_select:
            (best,) = select_multikrum(left, num_malicious_nodes, 1)
            chosen.append(best)
            left = [content for content in left if content is not best]
        return chosen

    plain = FlowersBulyan.__init__

    def with_rule(self: FlowersBulyan, *args: Any, **keywords: Any) -> None:
        plain(self, *args, **keywords, selection_rule=one_by_one)

    stack = updates(num_clients, seed=num_clients)
    mine = step(Bulyan(num_malicious=num_malicious), stack)
    monkeypatch.setattr(FlowersBulyan, "__init__", with_rule)
    monkeypatch.setattr(UnpackedStrategy, "build", lambda self: FlowersBulyan(num_malicious_nodes=num_malicious))
    assert_same(mine, flowers("Bulyan", {"num_malicious_nodes": num_malicious}, stack))


def test_trimmed_mean_is_scipy_s() -> None:
    stack = updates(23)
    for fraction in (0.0, 0.1, 0.33, 0.49):
        expected = {name: stats.trim_mean(value, fraction, axis=0) for name, value in stack.items()}
        assert_same(step(TrimmedMean(fraction=fraction), stack), expected)


def test_krum_by_the_paper_s_sentence() -> None:
    """`s(i) = sum over the n - f - 2 closest j of |V_i - V_j|^2`, each distance computed by itself."""
    stack, num_malicious = updates(9, seed=4), 3
    flat = [np.concatenate([stack["bias"][k].ravel(), stack["weight"][k].ravel()]) for k in range(9)]
    scores = []
    for i in range(9):
        distances = sorted(sum((a - b) ** 2 for a, b in zip(flat[i], flat[j], strict=True)) for j in range(9) if j != i)
        scores.append(sum(distances[: 9 - num_malicious - 2]))
    best = int(np.argmin(scores))
    assert_same(step(Krum(num_malicious=num_malicious), stack), {name: value[best] for name, value in stack.items()})
    assert_same(
        step(MultiKrum(num_malicious=num_malicious), stack),
        {name: value[np.argsort(scores)[: 9 - num_malicious]].mean(axis=0) for name, value in stack.items()},
    )


def test_distances_keep_their_digits_beside_a_large_common_part() -> None:
    """Around 1e6, `|x|^2 + |y|^2 - 2 x y` without centring has an error of about 1e-3."""
    rows = np.random.default_rng(1).standard_normal((6, 20)) * 1e-3
    expected = np.array([[np.square(a - b).sum() for b in rows] for a in rows])
    np.testing.assert_allclose(squared_distances(rows + 1e6), expected, rtol=1e-3, atol=1e-8)


def test_geometric_median_is_the_least_sum_of_distances() -> None:
    """SciPy minimises `sum_k n_k |v - u_k|` itself."""
    stack, weights = updates(11, seed=5), np.arange(1.0, 12.0)
    flat = np.concatenate([stack["bias"].reshape(11, -1), stack["weight"].reshape(11, -1)], axis=1)

    def total(point: np.ndarray) -> float:
        return float(weights @ np.linalg.norm(flat - point, axis=1))

    best = optimize.minimize(total, flat.mean(axis=0), method="BFGS", options={"gtol": 1e-9})
    moved = step(GeometricMedian(iterations=300), stack, weights)
    np.testing.assert_allclose(np.concatenate([moved["bias"].ravel(), moved["weight"].ravel()]), best.x, atol=1e-5)


def test_norm_clipping_by_hand() -> None:
    """(3, 4) has norm 5 and becomes (0.6, 0.8); (0.3, 0.4) stays. Weights 1 and 3: (0.6 + 0.9, 0.8 + 1.2) / 4."""
    stack = {"w": np.array([[3.0, 4.0], [0.3, 0.4]])}
    strategy = NormClipping(max_norm=1.0)
    head = {"w": np.zeros(2)}
    outcome = strategy.aggregate({}, head, (replies_of(stack, [1, 3]),))
    np.testing.assert_allclose(outcome.head["w"], [0.375, 0.5])
    assert outcome.metrics == {"clipped_fraction": 0.5}


def test_clipping_at_the_median_by_hand() -> None:
    """Norms 5, 1 and 0.5 have the median 1: (3, 4) becomes (0.6, 0.8). From the centre 0 likewise."""
    stack = {"w": np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 0.5]])}
    for strategy in (NormClipping(), CentredClipping()):
        np.testing.assert_allclose(step(strategy, stack)["w"], [1.6 / 3, 1.3 / 3])


def test_centred_clipping_by_hand() -> None:
    """Radius 1, updates 0.5 and 9. First `v = (0.5 + 1) / 2 = 0.75`; then 0.5 - 0.75 = -0.25 and 1: `v = 1.125`."""
    strategy = CentredClipping(radius=1.0)
    head: Arrays = {"w": np.zeros(1)}
    state, seen = strategy.init(head), []
    for _ in range(2):
        outcome = strategy.aggregate(state, head, (replies_of({"w": np.array([[0.5], [9.0]])}),))
        head, state = outcome.head, outcome.state
        seen.append(state["w"].item())
    assert seen == [0.75, 1.125]
    assert head["w"].item() == 0.75 + 1.125
    twice = CentredClipping(radius=1.0, iterations=2)
    assert step(twice, {"w": np.array([[0.5], [9.0]])})["w"].item() == 1.125


@pytest.mark.parametrize("strategy", ROBUST, ids=named)
def test_without_samples_nothing_counts(strategy: Strategy) -> None:
    """A client without samples sends zeros with the weight 0, which are no update."""
    stack = updates(8)
    padded = {
        name: np.concatenate([value[:3], np.zeros((2, *value.shape[1:])), value[3:]]) for name, value in stack.items()
    }
    weights = [7.0] * 3 + [0.0] * 2 + [7.0] * 5
    assert_same(step(strategy, padded, weights), step(strategy, stack), 0)
    nothing = {name: np.zeros((2, *value.shape[1:])) for name, value in stack.items()}
    assert_same(step(strategy, nothing, [0, 0]), HEAD, 0)


@pytest.mark.parametrize("strategy", ROBUST, ids=named)
def test_equal_updates_give_that_update(strategy: Strategy) -> None:
    one = updates(1)
    same = {name: np.repeat(value, 8, axis=0) for name, value in one.items()}
    assert_same(step(strategy, same), {name: value[0] for name, value in one.items()}, 1e-12)


LAWS = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("strategy", ROBUST, ids=named)
@LAWS
@given(seed=seeds, num_clients=st.integers(7, 12))
def test_order_of_clients_does_not_matter(strategy: Strategy, seed: int, num_clients: int) -> None:
    stack = updates(num_clients, seed)
    order = np.random.default_rng(seed).permutation(num_clients)
    shuffled = {name: value[order] for name, value in stack.items()}
    assert_same(step(strategy, shuffled), step(strategy, stack), 1e-7)


@pytest.mark.parametrize("strategy", [one for one in ROBUST if not isinstance(one, GeometricMedian)], ids=named)
@LAWS
@given(seed=seeds, num_clients=st.integers(7, 12), factor=st.floats(0.1, 10))
def test_moves_and_scales_with_the_updates(strategy: Strategy, seed: int, num_clients: int, factor: float) -> None:
    """If every update is shifted and scaled alike, so is the result (with bounds beyond all updates)."""
    stack, shift = updates(num_clients, seed), updates(1, seed + 1)
    moved = {name: factor * value + shift[name] for name, value in stack.items()}
    plain = step(strategy, stack)
    assert_same(step(strategy, moved), {name: factor * plain[name] + shift[name][0] for name in plain}, 1e-7)


@pytest.mark.parametrize("strategy", [*ROBUST[:6], NormClipping(), CentredClipping()], ids=named)
@LAWS
@given(seed=seeds, size=st.floats(1, 1e6))
def test_one_liar_moves_it_by_a_bounded_amount(strategy: Strategy, seed: int, size: float) -> None:
    """Of 11 clients one sends whatever it likes. Where the mean would go by `size / 11`, these stay near the honest."""
    stack = updates(11, seed)
    liar = {name: value.copy() for name, value in stack.items()}
    for value in liar.values():
        value[4] = size
    moved = step(strategy, liar)
    for name, value in moved.items():
        honest = np.abs(np.delete(stack[name], 4, axis=0)).max()
        assert np.abs(value).max() <= max(honest, 3.0) + 1e-6


@LAWS
@given(seed=seeds)
def test_krum_takes_one_of_the_updates(seed: int) -> None:
    stack = updates(9, seed)
    chosen = step(Krum(num_malicious=2), stack)
    assert any(all(np.array_equal(chosen[n], stack[n][k]) for n in stack) for k in range(9))


def test_krum_leaves_out_those_that_lie_together() -> None:
    """Three that say the same nonsense are each other's neighbours at distance 0, but not enough of them for f = 3."""
    stack = updates(9, seed=2)
    for value in stack.values():
        value[6:] = 50.0
    for strategy in (Krum(num_malicious=3), MultiKrum(num_malicious=3), Median()):
        assert max(np.abs(value).max() for value in step(strategy, stack).values()) < 10


CASES: list[tuple[Strategy, int, str]] = [
    (
        Krum(num_malicious=2),
        6,
        r"krum with num_malicious 2 needs 2 x 2 \+ 3 = 7 clients with training samples in a round, there are 6; lower",
    ),
    (MultiKrum(num_malicious=2), 6, r"multi-krum with num_malicious 2 needs 2 x 2 \+ 3 = 7 clients"),
    (MultiKrum(num_selected=9), 8, r"average num_selected 9 updates, there are 8 clients .* lower num_selected"),
    (Bulyan(num_malicious=2), 10, r"bulyan with num_malicious 2 needs 4 x 2 \+ 3 = 11 clients .* there are 10; lower"),
]


@pytest.mark.parametrize(("strategy", "num_clients", "text"), CASES, ids=lambda value: getattr(value, "name", ""))
def test_too_few_clients(strategy: Strategy, num_clients: int, text: str) -> None:
    with pytest.raises(CombineError, match=text):
        step(strategy, updates(num_clients))
    assert strategy.shortage(num_clients)
    assert strategy.shortage(num_clients + 1) is None


def test_others_take_any_number() -> None:
    for strategy, count in itertools.product(ROBUST[:2] + ROBUST[5:], (1, 2, 3)):
        assert all(np.isfinite(value).all() for value in step(strategy, updates(count)).values())


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: TrimmedMean(fraction=0.5), "less than 0.5"),
        (lambda: TrimmedMean(fraction=-0.1), "greater than or equal to 0"),
        (lambda: Krum(num_malicious=-1), "greater than or equal to 0"),
        (lambda: MultiKrum(num_selected=0), "greater than 0"),
        (lambda: NormClipping(max_norm=0.0), "greater than 0"),
    ],
)
def test_impossible_parameters(build: Callable[[], Strategy], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
