"""Every strategy on two unlike quadratics, against the optimum that theory gives.

With learning rate l and tau local steps a client moves by `q_k (o_k - w)`, where `q_k = 1 - (1 - l a_k)^tau`.
FedAvg stands still where `sum_k q_k (o_k - w) = 0`: for one step at the true optimum,
`(0.05 * 1 * -3 + 0.05 * 4 * 2) / (0.05 + 0.2) = 1`; for ten steps `q = (0.40126, 0.89263)`, so at
`(-1.20379 + 1.78525) / 1.29389 = 0.4494`. Server optimisers (momentum, adaptive steps) stand still there too,
since their step is zero only where the mean update is.

Each strategy is run to the end on clients that this folder writes by hand (`quadratics.py`), and then for some rounds
on the same quadratics as a real federation, whose hosts, halves and replies must give the same course.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from quadratics import LEARNING_RATE, UNLIKE, Quadratic, course
from quadratics_end_to_end import course_end_to_end

from fedgraft.simulation.flower_identity import claim_identity
from server.flower_strategy import UnpackedStrategy, flower_classes
from strategies.base import Replies, Strategy
from strategies.fedavg import FedAvg
from strategies.fedavgm import FedAvgM
from strategies.fedexp import FedExP
from strategies.fednova import FedNova
from strategies.fedprox import FedProx
from strategies.fedsam import FedSAM
from strategies.flower import FlowerStrategy
from strategies.qfedavg import QFedAvg
from strategies.registry import STRATEGIES


@pytest.fixture(autouse=True, scope="module")
def identity() -> None:
    """Flower's `Message` wants a task's identity; its log, two lines a round, is not wanted."""
    claim_identity(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)


def fixed_point(clients: Sequence[Quadratic], num_steps: int, mu: float = 0.0) -> float:
    """Return where the mean update is zero.

    With a proximal term the local optimum is `(a o + mu w) / (a + mu)` and the rate `1 - l (a + mu)`, so a
    client moves by `q_k a_k / (a_k + mu) (o_k - w)`.
    """
    curvature = np.array([client.curvature for client in clients])
    optimum = np.array([client.optimum for client in clients])
    weight = np.array([client.weight for client in clients])
    pull = weight * (1 - (1 - LEARNING_RATE * (curvature + mu)) ** num_steps) * curvature / (curvature + mu)
    return float((pull * optimum).sum() / pull.sum())


@dataclass(frozen=True)
class Row:
    """What a strategy reaches from 0: with one local step, and with ten."""

    name: str
    one_step: float
    ten_steps: float | None
    parameters: dict[str, float] = field(default_factory=dict)
    clients: tuple[Quadratic, ...] = UNLIKE
    num_rounds: int = 150
    tolerance: float = 1e-6

    def build(self) -> Strategy:
        if self.name.startswith("flower:"):
            return UnpackedStrategy.of(FlowerStrategy(name=self.name, parameters=self.parameters))
        return STRATEGIES[self.name](**self.parameters)


# Six honest clients with one optimum and one that lies: what defends against liars ends at the honest optimum.
ONE_LIES = (*[Quadratic(4, 2)] * 6, Quadratic(1, 100))
# The median of three updates is zero where the middle one's is: at the optimum between the two others.
THREE = (Quadratic(1, -3), Quadratic(1, -1), Quadratic(4, 2))
FAIR = 4 ** (2 / 3)
"""q-FedAvg with q = 1 stands still where `sum_k F_k F_k' = 0`, that is `(w + 3) / (2 - w) = 4^(2/3)`."""


def fair(num_steps: int) -> float:
    """Return where `sum_k F_k u_k = 0` with `F_k = a_k / 2 (w - o_k)^2`, `u_k = q_k (o_k - w)`: cubes of distances.

    `1 q_1 (w + 3)^3 = 4 q_2 (2 - w)^3`, so `(w + 3) / (2 - w)` is the cube root of `4 q_2 / q_1`: with one step, of 16.
    """
    moved = [1 - (1 - LEARNING_RATE * client.curvature) ** num_steps for client in UNLIKE]
    ratio = (4 * moved[1] / moved[0]) ** (1 / 3)
    return (2 * ratio - 3) / (1 + ratio)


RHO = 0.05


def flat(num_steps: int) -> float:
    """Return where FedSAM stands still.

    A step of a client goes as if its optimum lay rho further away, beyond it, as long as it does not pass that: between
    the two, at `-3 - rho` and `2 + rho`. With one step at `(1 (-3 - rho) + 4 (2 + rho)) / 5 = 1 + 0.6 rho`.
    """
    return fixed_point((Quadratic(1, -3 - RHO), Quadratic(4, 2 + RHO)), num_steps)


TABLE = (
    Row("fedavg", 1.0, 0.4494),
    Row("fedavgm", 1.0, 0.4494, {"momentum": 0.5}),
    Row("fedadagrad", 1.0, 0.4494, {"learning_rate": 0.5, "tau": 0.1}),
    Row("fedadam", 1.0, 0.4494, {"learning_rate": 0.1, "tau": 0.1}, num_rounds=300, tolerance=0.002),
    Row("fedyogi", 1.0, 0.4494, {"learning_rate": 0.05, "tau": 0.1}, tolerance=0.002),
    Row("fedprox", 1.0, 0.4710, {"mu": 0.5}),
    Row("fedsam", 1.03, flat(10), {"rho": RHO}),
    Row("scaffold", 1.0, 1.0),
    Row("feddyn", 1.0, 1.0, {"alpha": 0.5}, num_rounds=400),
    # Equal paths: FedAvg, and with a proximal term FedProx.
    Row("fednova", 1.0, 0.4710, {"mu": 0.5}),
    # Where the mean update is zero, the step is at most 1.92 times it: short enough to come to rest.
    Row("fedexp", 1.0, 0.4494, {"epsilon": 0.5}),
    Row("qfedavg", fair(1), fair(10), {"q": 1.0}, num_rounds=400),
    # Heads of the clients' own beside these: `test_personal_heads_on_quadratics.py`.
    Row("local-only", 0.0, 0.0),
    # The optimum of the pooled loss, after any number of steps; and the start.
    Row("centralised", 1.0, 1.0),
    Row("zero-shot", 0.0, 0.0),
    Row("fine-tune-after", 1.0, 0.4494),
    Row("ditto", 1.0, 0.4494, {"pull": 0.5}),
    # Of two values the median, and a mean from which nothing is cut, is the mean; so is a clipped mean of short ones,
    # and one around a centre that has come to the mean.
    Row("median", 1.0, 0.4494),
    Row("trimmed-mean", 1.0, 0.4494, {"fraction": 0.2}),
    Row("norm-clipping", 1.0, 0.4494, {"max_norm": 10.0}),
    Row("centred-clipping", 1.0, 0.4494, {"radius": 10.0}),
    Row("krum", 2.0, 2.0, {"num_malicious": 1}, ONE_LIES, 80),
    Row("multi-krum", 2.0, 2.0, {"num_malicious": 1, "num_selected": 3}, ONE_LIES, 80),
    Row("bulyan", 2.0, 2.0, {"num_malicious": 1}, ONE_LIES, 80),
    # On a line the geometric median is the median: of three, the middle one's update is zero at its own optimum.
    Row("geometric-median", -1.0, -1.0, {"iterations": 100}, THREE, 200, tolerance=1e-3),
    Row("flower:FedAvg", 1.0, 0.4494),
    Row("flower:FedAvgM", 1.0, 0.4494, {"server_momentum": 0.5}),
    Row("flower:FedProx", 1.0, 0.4710, {"proximal_mu": 0.5}),
    Row("flower:FedAdam", 1.0, 0.4494, {"eta": 0.1, "tau": 0.1}, num_rounds=300, tolerance=0.002),
    Row("flower:FedYogi", 1.0, 0.4494, {"eta": 0.05, "tau": 0.1}, tolerance=0.002),
    Row("flower:FedAdagrad", 1.0, 0.4494, {"eta": 0.5, "tau": 0.1}, tolerance=0.002),
    # Of two values both the median and a mean without trimming are the mean.
    Row("flower:FedMedian", 1.0, 0.4494),
    Row("flower:FedTrimmedAvg", 1.0, 0.4494, {"beta": 0.2}),
    Row("flower:QFedAvg", (2 * FAIR - 3) / (1 + FAIR), None, {"client_learning_rate": 0.05, "q": 1}),
    Row("flower:Krum", 2.0, 2.0, {"num_malicious_nodes": 1}, ONE_LIES, 80),
    Row("flower:MultiKrum", 2.0, 2.0, {"num_malicious_nodes": 1, "num_nodes_to_select": 3}, ONE_LIES, 80),
    Row("flower:Bulyan", 2.0, 2.0, {"num_malicious_nodes": 1}, ONE_LIES, 80),
)


def test_the_table_has_every_strategy() -> None:
    ours = {row.name for row in TABLE if not row.name.startswith("flower:")}
    closed_forms = {name for name, strategy in STRATEGIES.items() if strategy.most_rounds == 1}  # have their own tests
    adapters = {name for name, strategy in STRATEGIES.items() if strategy.heads == ("adapter",)}  # no quadratics
    assert ours == set(STRATEGIES) - {"flower:<Class>"} - closed_forms - adapters
    assert {row.name.partition(":")[2] for row in TABLE} - {""} == set(flower_classes())


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_with_one_local_step(row: Row) -> None:
    last = course(row.build(), row.clients, 1, row.num_rounds)[-1]
    assert last == pytest.approx(row.one_step, abs=max(row.tolerance, 1e-6))


@pytest.mark.parametrize("row", [row for row in TABLE if row.ten_steps is not None], ids=lambda row: row.name)
def test_with_ten_local_steps(row: Row) -> None:
    last = course(row.build(), row.clients, 10, row.num_rounds)[-1]
    assert row.ten_steps is not None
    assert last == pytest.approx(row.ten_steps, abs=max(row.tolerance, 1e-4))


OURS = [row for row in TABLE if not row.name.startswith("flower:")]


@pytest.mark.parametrize("num_steps", [1, 10])
@pytest.mark.parametrize("row", OURS, ids=lambda row: row.name)
def test_real_hosts_go_the_same_way(row: Row, num_steps: int) -> None:
    by_hand = course(row.build(), row.clients, num_steps, 6)
    np.testing.assert_allclose(course_end_to_end(row.build(), row.clients, num_steps, 6), by_hand, rtol=2e-5, atol=2e-6)


def test_the_table_s_numbers_are_theory_s() -> None:
    assert fixed_point(UNLIKE, 1) == pytest.approx(1.0)
    assert fixed_point(UNLIKE, 10) == pytest.approx(0.4494, abs=5e-5)
    assert fixed_point(UNLIKE, 10, mu=0.5) == pytest.approx(0.4710, abs=5e-5)
    assert flat(1) == pytest.approx(1.03)
    assert flat(10) == pytest.approx(0.4684, abs=5e-5)
    assert fair(1) == pytest.approx((2 * FAIR - 3) / (1 + FAIR))
    assert fair(1) == pytest.approx(0.580, abs=6e-4)


@pytest.mark.parametrize("name", ["fedavg", "flower:FedAvg"])
def test_samples_weigh(name: str) -> None:
    """Weights 3 and 1, one step: `(3 * 1 * -3 + 4 * 2) / (3 + 4) = -1/7`."""
    clients = (Quadratic(1, -3, weight=3), Quadratic(4, 2, weight=1))
    strategy = Row(name, 0, 0).build()
    assert course(strategy, clients, 1, 200)[-1] == pytest.approx(-1 / 7, abs=1e-6)


@pytest.mark.parametrize("num_steps", [1, 10])
@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_samples_weigh_where_clients_keep_state(name: str, num_steps: int) -> None:
    """Weights 3 and 1: the optimum of the pooled loss, -1/7, after any number of local steps; also on real hosts."""
    clients = (Quadratic(1, -3, weight=3), Quadratic(4, 2, weight=1))
    strategy = Row(name, 0, 0).build()
    by_hand = course(strategy, clients, num_steps, 600)
    assert by_hand[-1] == pytest.approx(-1 / 7, abs=1e-6)
    np.testing.assert_allclose(course_end_to_end(strategy, clients, num_steps, 8), by_hand[:8], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Row("fedavg", 0, 0), Row("flower:FedAvg", 0, 0)),
        (
            Row("qfedavg", 0, 0, {"q": 1.0}),
            Row("flower:QFedAvg", 0, 0, {"client_learning_rate": LEARNING_RATE, "q": 1}),
        ),
    ],
    ids=["fedavg", "qfedavg"],
)
def test_flower_s_own_go_the_same_way(ours: Row, theirs: Row) -> None:
    """One local step: Flower weighs by the mean loss of all local steps, the paper by that before them."""
    clients = (Quadratic(1, -3, weight=1), Quadratic(4, 2, weight=1), Quadratic(2, 0.5, weight=1))
    np.testing.assert_allclose(
        course(ours.build(), clients, 1, 30), course(theirs.build(), clients, 1, 30), rtol=1e-6, atol=1e-7
    )


def test_proximal_without_mu_is_fedavg() -> None:
    """Flower's FedProx says in its log that it is FedAvg then."""
    proximal = UnpackedStrategy.of(FlowerStrategy(name="flower:FedProx", parameters={"proximal_mu": 0.0}))
    assert proximal.plan(proximal.init({}), 1)[0].half.name == "plain"
    plain = UnpackedStrategy.of(FlowerStrategy(name="flower:FedAvg"))
    assert course(proximal, UNLIKE, 10, 20) == course(plain, UNLIKE, 10, 20)


def test_identities_hold_bit_for_bit_on_real_hosts() -> None:
    """Without its own parameter each of these is FedAvg."""
    fedavg = course_end_to_end(FedAvg(), UNLIKE, 10, 5)
    assert course_end_to_end(FedProx(mu=0), UNLIKE, 10, 5) == fedavg
    assert course_end_to_end(FedSAM(rho=0), UNLIKE, 10, 5) == fedavg
    assert course_end_to_end(FedAvgM(momentum=0), UNLIKE, 10, 5) == fedavg
    assert course_end_to_end(QFedAvg(q=0), UNLIKE, 10, 5) == fedavg


def test_fednova_mends_unequal_numbers_of_steps() -> None:
    """Three samples and one, one epoch of batches of 1: three steps and one, shares 3/4 and 1/4.

    FedAvg stands still where `sum_k p_k q_k (o_k - w) = 0`, FedNova where `sum_k p_k q_k / tau_k (o_k - w) = 0`, with
    `q = (1 - 0.95^3, 0.2) = (0.142625, 0.2)`: at -1.40733 and at -0.08136. The optimum is -1/7 = -0.14286.
    """
    clients = (Quadratic(1, -3, weight=3), Quadratic(4, 2, weight=1))
    train = {"local_steps": None, "local_epochs": 1, "batch_size": 1}
    nova = course_end_to_end(FedNova(), clients, 1, 3, start=-0.08136, train=train)
    assert nova == pytest.approx([-0.08136] * 3, abs=1e-5)
    average = course_end_to_end(FedAvg(), clients, 1, 3, start=-1.40733, train=train)
    assert average == pytest.approx([-1.40733] * 3, abs=1e-5)


def test_fedexp_s_step_by_hand() -> None:
    """From 0 updates are -0.15 and 0.4: mean 0.125, mean square 0.09125; `0.09125 / (2 (0.015625 + 0.001)) = 2.744`."""
    outcome = course_end_to_end(FedExP(epsilon=1e-3), UNLIKE, 1, 1)
    assert outcome == pytest.approx([0.125 * 0.09125 / 0.03325], rel=1e-5)


def test_fedexp_goes_to_and_fro_around_an_optimum_that_clients_do_not_share() -> None:
    """Near it the mean update vanishes, so that steps of about `|u_k|^2 / (2 |u|)` grow: it never comes to rest."""
    last = np.array(course(FedExP(epsilon=1e-9), UNLIKE, 1, 300)[-100:]) - 1.0
    assert last.min() < -0.1
    assert last.max() > 0.1


def test_fedexp_is_faster_where_all_share_an_optimum() -> None:
    """Six clients of curvature 1/4 and two of 16, all at 2: the mean update is a small part of the largest."""
    clients = (*[Quadratic(0.25, 2)] * 6, *[Quadratic(16, 2)] * 2)
    plain, longer = (course(strategy, clients, 1, 5)[-1] for strategy in (FedAvg(), FedExP(epsilon=1e-9)))
    assert abs(longer - 2) < 0.5 * abs(plain - 2)


def replies_of(updates: Sequence[np.ndarray], weights: Sequence[float]) -> Replies:
    total = sum((weight * update for weight, update in zip(weights, updates, strict=True)), np.zeros(updates[0].shape))
    return Replies({"update": {"w": total}}, {"weight": float(sum(weights))}, len(updates))


HEAD = {"w": np.array([[1.0, -2.0, 3.0]], dtype=np.float32)}


def fedavg_after(replies: Replies) -> np.ndarray:
    outcome = FedAvg().aggregate(FedAvg().init(HEAD), HEAD, (replies,))
    assert outcome.head["w"].dtype == np.float32
    return np.asarray(outcome.head["w"])


def test_mean_of_equal_updates_is_that_update() -> None:
    update = np.array([[0.25, 0.5, -1.0]])
    after = fedavg_after(replies_of([update] * 3, [5, 2, 9]))
    np.testing.assert_array_equal(after, HEAD["w"] + update.astype(np.float32))


@pytest.mark.parametrize("num_clients", [0, 3])
def test_nobody_with_samples_leaves_the_head(num_clients: int) -> None:
    replies = Replies({"update": {"w": np.zeros((1, 3))}}, {"weight": 0.0}, num_clients)
    np.testing.assert_array_equal(fedavg_after(replies), HEAD["w"])


def test_order_of_clients_matters_by_rounding_only() -> None:
    random = np.random.default_rng(0)
    updates, weights = list(random.standard_normal((50, 1, 3))), list(random.integers(1, 99, 50))
    forward = fedavg_after(replies_of(updates, weights))
    backward = fedavg_after(replies_of(updates[::-1], weights[::-1]))
    np.testing.assert_allclose(forward, backward, rtol=1e-6)


def test_head_received_is_not_changed() -> None:
    before = HEAD["w"].copy()
    fedavg_after(replies_of([np.ones((1, 3))], [1]))
    np.testing.assert_array_equal(HEAD["w"], before)
