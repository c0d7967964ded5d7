"""Heads of the clients' own on two unlike quadratics, on real hosts, against the optimum that theory gives.

Client k's loss is `a_k / 2 (v - o_k)^2` with curvatures 1 and 4 and optima -3 and 2. Each row says how far an own head
ends from its client's optimum.
"""

from __future__ import annotations

import logging

import pytest
from quadratics import LEARNING_RATE, UNLIKE
from quadratics_end_to_end import course_end_to_end, own_heads_end_to_end

from fedgraft.simulation.flower_identity import claim_identity
from strategies.base import Strategy
from strategies.ditto import Ditto
from strategies.fedavg import FedAvg
from strategies.fine_tune_after import FineTuneAfter
from strategies.local_only import LocalOnly
from strategies.registry import STRATEGIES


@pytest.fixture(autouse=True, scope="module")
def identity() -> None:
    claim_identity(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)


GLOBAL = {1: 1.0, 10: 0.449369}
"""Where FedAvg stands still, by local steps: see `test_strategies_on_quadratics.py`."""


def pulled(pull: float, num_steps: int) -> list[float]:
    """Return `|v - o|` of Ditto: `a (v - o) + p (v - w) = 0`, so `v - o = p (w - o) / (a + p)` for `w` at rest."""
    return [abs(pull * (GLOBAL[num_steps] - one.optimum) / (one.curvature + pull)) for one in UNLIKE]


def fine_tuned(num_steps: int, epochs: int) -> list[float]:
    """Return `|v - o|` after so many steps from the global optimum: each goes `1 - l a` of the way that is left."""
    return [abs((1 - LEARNING_RATE * one.curvature) ** epochs * (GLOBAL[num_steps] - one.optimum)) for one in UNLIKE]


@pytest.mark.parametrize("num_steps", [1, 10])
@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (LocalOnly(), lambda num_steps: [0.0, 0.0]),
        (Ditto(pull=0), lambda num_steps: [0.0, 0.0]),
        (Ditto(pull=0.5), lambda num_steps: pulled(0.5, num_steps)),
        (Ditto(pull=10), lambda num_steps: pulled(10, num_steps)),
        (FineTuneAfter(epochs=3), lambda num_steps: fine_tuned(num_steps, 3)),
    ],
    ids=["local-only", "ditto-0", "ditto-0.5", "ditto-10", "fine-tune-after"],
)
@pytest.mark.parametrize("form", ["auto", "primal"])
def test_own_heads_end_where_theory_says(strategy: Strategy, expected: object, num_steps: int, form: str) -> None:
    rounds = 200 if num_steps == 1 else 30
    found = own_heads_end_to_end(strategy, UNLIKE, num_steps, rounds, train={"form": form})
    assert found == pytest.approx(expected(num_steps), abs=5e-4)  # type: ignore[operator]


def test_personal_strategies_are_all_here() -> None:
    """One that joins the registry needs a row above, or tests of its own."""
    assert {name for name, kind in STRATEGIES.items() if kind.personal is not Strategy.personal} == {
        "local-only",
        "fine-tune-after",
        "ditto",
        *("fedper", "fedrep", "fedbabu", "fedrod"),  # `tests/clients/test_client_layers.py`
        "personal-ridge",  # `tests/clients/test_client_blended_ridge.py`
    }


@pytest.mark.parametrize("strategy", [Ditto(pull=0.5), FineTuneAfter()], ids=["ditto", "fine-tune-after"])
def test_the_global_head_is_fedavgs_bit_for_bit(strategy: Strategy) -> None:
    assert course_end_to_end(strategy, UNLIKE, 10, 5) == course_end_to_end(FedAvg(), UNLIKE, 10, 5)


def test_local_only_shares_nothing() -> None:
    assert course_end_to_end(LocalOnly(), UNLIKE, 10, 5, start=0.25) == [0.25] * 5
