"""The adapter between our strategies and Flower's: cohorts, messages, and replies that are refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from hand_made_hosts import Answer, Groups, description, grid_of, roster_of, update_reply

from fedgraft.errors import FedGraftError, WireError
from fedgraft.evaluation import Objective
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.loss_settings import SoftmaxLoss
from fedgraft.simulation.inline import InlineGrid
from fedgraft.wire.requests import EvaluateReply, EvaluateRequest, TrainReply, TrainRequest
from server.adapter import PackedStrategy
from server.attendance import Attendance
from server.checkpoint import Counters
from server.exchange import HostError, exchange
from server.roster import Roster
from server.settings import EvaluationSettings, ServerSettings
from strategies.base import Arrays, Outcome, Replies, Request, Strategy
from strategies.fedavg import FedAvg
from strategies.geometric_median import GeometricMedian

HEAD = {"weight": np.ones((2, 3), dtype=np.float32), "bias": np.zeros(2, dtype=np.float32)}
NAMES = [f"client-{number}" for number in range(10)]


def arrays_of(head: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in head.items()})


def two_hosts(train: Any = None, evaluate: Any = None) -> InlineGrid:
    """Return a grid of two hosts with every other client each."""
    return grid_of({7: description(NAMES[::2]), 3: description(NAMES[1::2])}, train, evaluate)


def adapter_of(
    roster: Roster, strategy: Strategy | None = None, evaluation: EvaluationSettings | None = None, **server: Any
) -> PackedStrategy:
    objective = Objective(LinearHead(), SoftmaxLoss(), "classes", 2)
    settings = ServerSettings(**{"rounds": 5, **server})
    evaluation = evaluation or EvaluationSettings(per_client=False)
    return PackedStrategy(strategy or FedAvg(), roster, settings, evaluation, objective, "run-0001", 1, "", 3)


class TestCohort:
    """Who takes part in a round."""

    def test_all_by_default(self) -> None:
        adapter = adapter_of(roster_of(two_hosts()))
        assert [adapter.cohort(number).tolist() for number in (1, 2)] == [list(range(10))] * 2

    def test_is_a_pure_function_of_seed_and_round(self) -> None:
        """Asked in any order, again, and by another server."""
        adapter = adapter_of(roster_of(two_hosts()), clients_per_round=3)
        first = [adapter.cohort(number).tolist() for number in (1, 2, 3, 4)]
        other = adapter_of(roster_of(two_hosts(), 4), clients_per_round=3)
        assert [other.cohort(number).tolist() for number in (4, 3, 2, 1)] == first[::-1]
        assert len({tuple(cohort) for cohort in first}) > 1
        other.attendance = Attendance(None, 2, other.roster.names, other.roster.num_train)
        assert [other.cohort(number).tolist() for number in (1, 2, 3, 4)] != first

    @pytest.mark.parametrize("round_number", [1, 2, 50])
    def test_distinct_and_ascending(self, round_number: int) -> None:
        cohort = adapter_of(roster_of(two_hosts()), clients_per_round=7).cohort(round_number).tolist()
        assert cohort == sorted(set(cohort))
        assert len(cohort) == 7
        assert set(cohort) <= set(range(10))

    def test_every_client_has_its_turn(self) -> None:
        """Drawn evenly: of 1,000 rounds with 3 of 10, each client is in 300, give or take 4 standard deviations."""
        adapter = adapter_of(roster_of(two_hosts()), clients_per_round=3)
        counts = np.bincount(np.concatenate([adapter.cohort(number) for number in range(1, 1001)]), minlength=10)
        assert np.abs(counts - 300).max() < 4 * (1000 * 0.3 * 0.7) ** 0.5

    @pytest.mark.parametrize(("fraction", "expected"), [(0.01, 1), (0.3, 3), (0.34, 3), (1.0, 10)])
    def test_fraction(self, fraction: float, expected: int) -> None:
        assert len(adapter_of(roster_of(two_hosts()), clients_fraction=fraction).cohort(1)) == expected


def messages_of(adapter: PackedStrategy, round_number: int, grid: InlineGrid) -> list[Message]:
    return list(adapter.configure_train(round_number, arrays_of(HEAD), ConfigRecord(), grid))


def run_round(adapter: PackedStrategy, grid: InlineGrid, change: Callable[[list[Message]], Any] | None = None) -> Any:
    replies = exchange(grid, messages_of(adapter, 1, grid), Counters(), "train", 5.0)
    return adapter.aggregate_train(1, change(replies) if change else replies)


def plain_update(node: int, request: TrainRequest, groups: Groups) -> Answer:
    return update_reply(request, groups, 0.25)


def test_a_round() -> None:
    """Every client's update is 0.25, so the head moves by 0.25; each reports a training loss of 0.5."""
    grid = two_hosts(plain_update)
    adapter = adapter_of(roster_of(grid, 3))
    arrays, metrics = run_round(adapter, grid)
    np.testing.assert_array_equal(arrays["weight"].numpy(), HEAD["weight"] + np.float32(0.25))
    assert metrics["train_loss"] == pytest.approx(0.5)
    assert adapter.record is not None
    assert adapter.record.clients.tolist() == list(range(10))


def test_replies_may_come_in_any_order() -> None:
    """Flower's own `send_and_receive` gives them as they arrive."""

    def by_shard(node: int, request: TrainRequest, groups: Groups) -> Answer:
        return update_reply(request, groups, 10.0**request.shard)

    grid = two_hosts(by_shard)
    forward, _ = run_round(adapter_of(roster_of(grid, 3)), grid)
    backward, _ = run_round(adapter_of(roster_of(grid, 3)), grid, lambda replies: replies[::-1])
    np.testing.assert_array_equal(forward["weight"].numpy(), backward["weight"].numpy())


def changed_body(**changes: Any) -> Any:
    def train(node: int, request: TrainRequest, groups: Groups) -> Answer:
        body, out = update_reply(request, groups, 0.25)
        return body.model_copy(update=changes), out

    return train


def changed_arrays(group: str, name: str | None, value: Any) -> Any:
    def train(node: int, request: TrainRequest, groups: Groups) -> Answer:
        body, out = update_reply(request, groups, 0.25)
        changed: dict[str, dict[str, Any]] = {key: dict(arrays) for key, arrays in out.items()}
        if name is None:
            del changed[group]
        elif value is None:
            del changed[group][name]
        else:
            changed.setdefault(group, {})[name] = value
        return body, changed

    return train


@pytest.mark.parametrize(
    ("train", "text"),
    [
        (changed_body(round_number=2), r"TrainReply of host \d is for round 2, expected 1; a stale reply"),
        (changed_body(shard=5), "is for shard 5, which it was not asked for"),
        (changed_body(num_clients=99), "speaks of 99 clients, asked for were 5"),
        (changed_body(scalars={"weight": 26.0}), "is weighted with 26 training samples, described were 25"),
        (changed_body(scalars={"weight": -1.0}), "is weighted with -1 training samples"),
        (changed_body(scalars={}), r"carries scalars \[\], expected \['weight'\]"),
        (changed_arrays("update", None, None), "update is missing"),
        (changed_arrays("update", "bias", None), "update: missing bias"),
        (changed_arrays("update", "more", np.zeros(1)), "update: unexpected more"),
        (changed_arrays("update", "bias", np.zeros(3)), r"bias has shape \(3,\), expected \(2,\)"),
        (changed_arrays("update", "bias", np.array([1.0, np.nan])), "1 of 2 values that are not finite"),
        (changed_arrays("clients", "index", np.arange(5)[::-1]), "speaks of other clients than it was asked for"),
        (changed_arrays("clients", "steps", np.arange(4)), r"steps has shape \(4,\), expected \(5,\)"),
        (changed_arrays("metrics", "train_count", None), "missing train_count"),
        (changed_arrays("metrics", "train_count", np.zeros(2)), r"train_count has shape \(2,\), expected \(\)"),
        (changed_arrays("metrics", "count", np.array(2.0)), "missing confusion, correct, loss"),
    ],
)
def test_replies_that_are_refused(train: Any, text: str) -> None:
    grid = two_hosts(train)
    with pytest.raises(WireError, match=text):
        run_round(adapter_of(roster_of(grid)), grid)


def test_weights_by_nearness_are_held_against_the_described_samples_and_the_smoothing() -> None:
    """Each host's 25 samples over 0.01 are 2,500."""
    grid = two_hosts(changed_body(scalars={"near_weight": 2501.0}))
    with pytest.raises(WireError, match="carries near_weight 2501, expected 0 to 2500"):
        run_round(adapter_of(roster_of(grid), GeometricMedian(smoothing=0.01)), grid)


def test_missing_doubled_and_failed_replies() -> None:
    grid = two_hosts(plain_update)
    roster = roster_of(grid, 1)
    with pytest.raises(WireError, match="1 replies came to 2 messages of round 1"):
        run_round(adapter_of(roster), grid, lambda replies: replies[:1])
    with pytest.raises(WireError, match="1 replies came to 2 messages of round 1"):
        run_round(adapter_of(roster), grid, lambda replies: [replies[0], replies[0]])
    failing = two_hosts()
    adapter = adapter_of(roster_of(failing))
    replies = failing.send_and_receive(messages_of(adapter, 1, failing))
    with pytest.raises(HostError, match=r"host \d failed in round 1: this host does not train"):
        adapter.aggregate_train(1, replies)


def test_head_is_as_before_after_a_refused_reply() -> None:
    grid = two_hosts(changed_arrays("update", "bias", np.zeros(3)))
    adapter = adapter_of(roster_of(grid))
    with pytest.raises(WireError):
        run_round(adapter, grid)
    np.testing.assert_array_equal(adapter.head["bias"], HEAD["bias"])


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (7, [0, 5])])
def test_evaluate_every(every: int, expected: list[int]) -> None:
    """The start and the last round are always evaluated; the request of a round asks about the head before it."""
    asked = []

    def train(node: int, request: TrainRequest, groups: Groups) -> Answer:
        asked.extend([request.round_number - 1] if request.evaluate and node == 3 else [])
        return update_reply(request, groups, 0.25)

    grid = two_hosts(train)
    adapter = adapter_of(roster_of(grid), evaluation=EvaluationSettings(every=every, per_client=False))
    assert [number for number in range(6) if adapter.evaluates_after(number)] == expected
    for number in range(1, 6):
        replies = exchange(grid, messages_of(adapter, number, grid), Counters(), "train", 5.0)
        adapter.aggregate_train(number, replies)
    assert asked == expected[:-1]


class TwoExchanges(FedAvg):
    """A strategy that asks twice a round: for the weights first, then for the updates."""

    def plan(self, state: Arrays, round_number: int) -> tuple[Request, ...]:
        return (Request(sums=()), Request())

    def aggregate(self, state: Arrays, head: Arrays, replies: tuple[Replies, ...]) -> Outcome:
        assert [sorted(reply.sums) for reply in replies] == [[], ["update"]]
        assert replies[0].scalars == {"weight": 50.0}
        return super().aggregate(state, head, replies[1:])


def test_two_exchanges_a_round() -> None:
    def train(node: int, request: TrainRequest, groups: Groups) -> Answer:
        body, out = update_reply(request, groups, 0.25)
        return body, {name: arrays for name, arrays in out.items() if name != "update" or request.sums}

    grid = two_hosts(train)
    adapter = adapter_of(roster_of(grid), TwoExchanges())
    assert run_round(adapter, grid) == (None, None)
    assert adapter.exchanges_left
    arrays, _ = run_round(adapter, grid)
    assert not adapter.exchanges_left
    np.testing.assert_array_equal(arrays["bias"].numpy(), np.full(2, 0.25, dtype=np.float32))


class TestFlowersOwnLoop:
    """`PackedStrategy` is a Flower `Strategy`: Flower's `start` can conduct it."""

    def test_same_head_as_our_loop(self) -> None:
        def train(node: int, request: TrainRequest, groups: Groups) -> Answer:
            return update_reply(request, groups, 1 / (node + request.round_number))

        def evaluate(node: int, request: EvaluateRequest, groups: Groups) -> Answer:
            count = len(groups["clients"]["index"])
            body = EvaluateReply(round_number=request.round_number, shard=request.shard, num_clients=count, seconds=0)
            right = np.diag([count, count]).astype(float)
            sums = {"count": 2.0 * count, "loss": 0.5 * count, "correct": 1.0 * count, "confusion": right}
            tenth = np.eye(15)[10]  # all answers are given with probability 0.7, half of them are right
            sums |= {
                "bin_count": 2 * count * tenth,
                "bin_confidence": 1.4 * count * tenth,
                "bin_correct": count * tenth,
            }
            sums["log_loss"] = 0.6 * count
            return body, {"metrics": {name: np.array(value) for name, value in sums.items()}}

        logging.getLogger("flwr").setLevel(logging.ERROR)
        grid = two_hosts(train, evaluate)
        flowers = adapter_of(roster_of(grid, 3), clients_per_round=6)
        result = flowers.start(grid, arrays_of(HEAD), num_rounds=5, timeout=5)
        ours = adapter_of(roster_of(grid, 3), clients_per_round=6)
        head = arrays_of(HEAD)
        for number in range(1, 6):
            messages = list(ours.configure_train(number, head, ConfigRecord(), grid))
            head, metrics = ours.aggregate_train(number, exchange(grid, messages, Counters(), "train", 5.0))
            assert metrics == result.train_metrics_clientapp[number]
        for name in HEAD:
            np.testing.assert_array_equal(result.arrays[name].numpy(), head[name].numpy())
        # Half of the answers are right, in the one evaluation, after the last round.
        assert list(result.evaluate_metrics_clientapp) == [5]
        assert result.evaluate_metrics_clientapp[5]["accuracy"] == 0.5
        assert result.evaluate_metrics_clientapp[5]["log_loss"] == pytest.approx(0.3)
        assert result.evaluate_metrics_clientapp[5]["calibration_error"] == pytest.approx(0.2)

    def test_failed_host_ends_it_with_its_reason(self) -> None:
        logging.getLogger("flwr").setLevel(logging.ERROR)
        grid = two_hosts()
        with pytest.raises(FedGraftError, match="failed in round 1: this host does not train"):
            adapter_of(roster_of(grid)).start(grid, arrays_of(HEAD), num_rounds=1, timeout=5)


def test_reply_bodies_are_checked() -> None:
    """`changed_body` above copies without a check; the wire checks."""
    with pytest.raises(ValueError, match="round_number"):
        TrainReply(round_number=0, shard=0, num_clients=0, scalars={}, seconds=0)
