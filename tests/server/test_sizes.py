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
from server.sizes import check_norms, check_weight


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


def test_squares_that_are_no_numbers_any_more_are_too_large() -> None:
    with pytest.raises(WireError, match="its norm is inf"):
        check_norms(reply({"update": {"bias": np.full(2, 1e300)}}, weight=1.0), 1000.0)


def test_sums_of_metrics_are_no_updates() -> None:
    check_norms(reply({"metrics": {"loss": np.array(1e9)}, "clients": {"index": np.array([5000])}}, weight=1.0), 1.0)


def test_nobody_weighs_more_than_what_it_described() -> None:
    check_weight(25.0, 25, "reply")
    with pytest.raises(WireError, match=r"reply is weighted with 25\.1 training samples, described were 25"):
        check_weight(25.1, 25, "reply")
