"""Finite numbers that are too large to be added; norms are derived by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from fedgraft.errors import WireError
from fedgraft.simulation.flower_identity import claim_identity
from fedgraft.wire.records import pack
from fedgraft.wire.requests import TrainReply
from server.sizes import check_norms, check_weight, check_weights


def reply(groups: dict[str, dict[str, Any]], **scalars: float) -> Message:
    claim_identity(1)
    body = TrainReply(round_number=1, shard=0, num_clients=1, scalars=scalars, seconds=0.0)
    return Message(pack(body, groups), dst_node_id=2, message_type="train")


SUM = {"weight": np.array([[6.0, 0.0], [0.0, 8.0]]), "bias": np.zeros(2)}
"""Its norm is 10."""


@pytest.mark.parametrize(
    ("message", "norm"),
    [
        (reply({"update": SUM}, weight=2.0), 5.0),
        (reply({"update": {"bias": np.zeros(2)}, "control": SUM}, weight=2.0), 5.0),
        (reply({"fair_update": SUM}, weight=2.0, fair_weight=20.0), 0.5),
        (reply({"near_update": SUM}, weight=2.0, near_weight=0.5), 20.0),
        (reply({"stack": {"bias": np.array([[3.0, 4.0], [0.0, 1.0]])}, "weights": {"weight": np.ones(2)}}), 5.0),
    ],
)
def test_norms_are_over_the_weight_of_their_sum(message: Message, norm: float) -> None:
    check_norms(message, norm * 1.001)
    check_norms(message, None)
    with pytest.raises(WireError, match=rf"^its norm is {norm:g}, more than .* \(server.largest_update_norm\)$"):
        check_norms(message, norm * 0.999)


@pytest.mark.parametrize("name", ["update", "control", "normalised_update", "fair_update", "near_update"])
def test_a_sum_without_a_weight_is_infinitely_large(name: str) -> None:
    """It would be divided by the others' weight; nothing at all is what clients without samples send."""
    nothing = {"weight": 0.0, "fair_weight": 0.0, "near_weight": 0.0}
    with pytest.raises(WireError, match=r"^its norm is inf, more than 1000 \(server.largest_update_norm\)$"):
        check_norms(reply({name: {"bias": np.array([0.0, 1e30])}}, **nothing), 1000.0)
    check_norms(reply({name: {"bias": np.zeros(2)}}, **nothing), 1000.0)


def test_squares_that_are_no_numbers_any_more_are_too_large() -> None:
    with pytest.raises(WireError, match="its norm is inf"):
        check_norms(reply({"update": {"bias": np.full(2, 1e300)}}, weight=1.0), 1000.0)


def test_sums_of_metrics_are_no_updates() -> None:
    check_norms(reply({"metrics": {"loss": np.array(1e9)}, "clients": {"index": np.array([5000])}}, weight=1.0), 1.0)


def test_nobody_weighs_more_than_what_it_described() -> None:
    check_weight(25.0, 25, "reply")
    with pytest.raises(WireError, match=r"reply is weighted with 25\.1 training samples, described were 25"):
        check_weight(25.1, 25, "reply")


def test_weights_of_sums_have_the_bound_that_follows_from_the_samples() -> None:
    """25 samples, all nearer than the smoothing 0.01, weigh 25 / 0.01 = 2,500; a loss has no largest value."""
    check_weights({"near_weight": 2500.0, "fair_weight": 1e9, "weight": 25.0}, 25, 0.01, "reply")
    for name, value, text in (
        ("near_weight", 2501.0, "reply carries near_weight 2501, expected 0 to 2500 with 25 training samples"),
        ("near_weight", -1.0, "reply carries near_weight -1, expected 0 to 2500"),
        ("fair_weight", -1.0, "reply carries fair_weight -1, expected 0 to inf"),
        ("weight", 26.0, "reply is weighted with 26 training samples, described were 25"),
    ):
        with pytest.raises(WireError, match=text):
            check_weights({name: value}, 25, 0.01, "reply")
