"""Messages that are lost, sent again and answered twice leave the bits of a run in which nothing went wrong."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

import server.exchange
from clients.app import app
from clients.host import forget_hosts
from fedgraft.evaluation import Objective
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.heads import initial_head
from fedgraft.models.loss_settings import SoftmaxLoss
from fedgraft.simulation.flower_identity import claim_identity, stamp
from fedgraft.simulation.inline import FIRST_HOST, RUN, InlineGrid
from fedgraft.submission import RunFacts, Submission
from fedgraft.wire.records import array_record
from scenarios.schema import Scenario
from server.adapter import PackedStrategy
from server.attendance import Attendance
from server.availability_settings import AvailabilitySettings
from server.checkpoint import Counters
from server.exchange import HostError, exchange
from server.roster import call_the_roll
from server.settings import EvaluationSettings, ServerSettings
from strategies.registry import STRATEGIES

DIM = 6
SCENARIO: dict[str, Any] = {
    "name": "retry",
    "backbone": "identity",
    "data": {
        "source": {"name": "synthetic", "num_samples": 150, "num_features": DIM, "num_classes": 3},
        "partition": {"name": "sizes", "sizes": [40, 1, 3, 20, 10, 6]},
    },
    "train": {"batch_size": 5, "optimizer": {"name": "sgd", "learning_rate": 0.1}},
    "shards": 3,
}


class Lossy(InlineGrid):
    """A grid that loses some requests, loses some replies, and delivers some requests twice, as it is told."""

    fates: Iterator[str] = iter(())

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            identifiers.append(stamp(message))
            fate = next(self.fates, "arrives")
            if fate == "is lost":
                continue
            reply = self._answer(message)
            if fate == "comes twice":
                reply = self._answer(message)
            stamp(reply)
            if fate != "reply is lost":
                self._replies[reply.metadata.reply_to_message_id] = reply
        return identifiers


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(server.exchange, "POLL_SECONDS", 0.0)
    yield
    forget_hosts()


TROUBLE = {"attack": {"name": "a-little-is-enough", "deviations": 1.0, "fraction": 0.4, "from_round": 2}}
SOME_COME = AvailabilitySettings(dropout=0.3, late_fraction=0.3, last_joins_in=3)


def course(name: str, fates: list[str], double_replies: bool = False, trouble: bool = False) -> dict[str, np.ndarray]:
    """Return the head after three rounds of half the clients, and how the clients' own heads do if they have some.

    With trouble, some clients lie, and some of those that are asked do not come.
    """
    claim_identity(RUN)
    values = Scenario.model_validate_json(json.dumps(SCENARIO | (TROUBLE if trouble else {})))
    config = {"scenario": Submission(values.model_dump_json(), RunFacts(run_id=str(uuid.uuid4()))).to_run_config()}
    contexts = {
        FIRST_HOST + number: Context(
            RUN, FIRST_HOST + number, {"partition-id": number, "num-partitions": 2}, RecordDict(), config
        )
        for number in range(2)
    }
    grid = Lossy(app, contexts)
    run_id = json.loads(config["scenario"])["run"]["run_id"]
    roster = call_the_roll(grid, run_id, 2, 3, Counters(), 10.0)
    grid.fates = iter(fates)
    strategy = STRATEGIES[name]()
    rounds = strategy.most_rounds or 3
    objective = Objective(LinearHead(), SoftmaxLoss(), "classes", 3)
    own = ServerSettings(rounds=rounds, clients_per_round=4)
    never = EvaluationSettings(every=1000, central=False, per_client=False)
    attendance = Attendance(SOME_COME if trouble else None, 1, roster.names, roster.num_train)
    adapter = PackedStrategy(strategy, roster, own, never, objective, run_id, 1, "", DIM, attendance)
    head = initial_head(LinearHead(), DIM, 3, 1)
    for number in range(1, rounds + 1):
        arrays = None
        while arrays is None:
            messages = list(adapter.configure_train(number, array_record(head), ConfigRecord(), grid))
            replies = exchange(grid, messages, Counters(), adapter.phase, 1e-6, retries=40)
            if double_replies and adapter.phase == "train":
                replies = [*replies[::-1], *replies]
            arrays, _ = adapter.aggregate_train(number, replies)
        head = adapter.head
    messages = list(adapter.configure_evaluate(rounds, array_record(head), ConfigRecord(), grid))
    adapter.aggregate_evaluate(rounds, exchange(grid, messages, Counters(), "evaluate", 1e-6, retries=40))
    personal = adapter.record.personal if adapter.record else {}
    return {name: np.asarray(value) for name, value in [*head.items(), *personal.items()]}


UNDISTURBED: dict[str, dict[str, np.ndarray]] = {}
NAMES = ("fedavg", "scaffold", "feddyn", "fednova", "ridge")


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    fates=st.lists(st.sampled_from(["arrives", "is lost", "reply is lost", "comes twice"]), max_size=30),
)
def test_nothing_is_lost_and_nothing_counts_twice(name: str, fates: list[str]) -> None:
    if name not in UNDISTURBED:
        UNDISTURBED[name] = course(name, [])
    for part, value in course(name, fates).items():
        np.testing.assert_array_equal(value, UNDISTURBED[name][part])


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "feddyn"])
def test_replies_that_come_twice_count_once(name: str) -> None:
    once, twice = course(name, []), course(name, [], double_replies=True)
    for part, value in once.items():
        np.testing.assert_array_equal(value, twice[part])


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(("ditto", "scaffold", "local-only")),
    fates=st.lists(st.sampled_from(["arrives", "is lost", "reply is lost", "comes twice"]), max_size=30),
)
def test_nor_where_clients_lie_stay_away_and_have_heads_of_their_own(name: str, fates: list[str]) -> None:
    key = f"{name}, in trouble"
    if key not in UNDISTURBED:
        UNDISTURBED[key] = course(name, [], trouble=True)
        if name == "scaffold":  # there was trouble
            assert not np.array_equal(UNDISTURBED[key]["weight"], course(name, [])["weight"])
    told = course(name, fates, trouble=True)
    assert ("loss" in told) == (name != "scaffold")
    for part, value in told.items():
        np.testing.assert_array_equal(value, UNDISTURBED[key][part])


def test_gives_up_after_as_many_retries_as_were_set() -> None:
    claim_identity(RUN)
    grid = Lossy(app, {FIRST_HOST: Context(RUN, FIRST_HOST, {}, RecordDict(), {})})
    grid.fates = iter(["is lost"] * 9)
    message = Message(RecordDict(), dst_node_id=FIRST_HOST, message_type="train")
    text = r"1 of 1 messages 'train' were not answered within 1e-06 s, 3 times, by the hosts 2; raise"
    with pytest.raises(HostError, match=text):
        exchange(grid, [message], Counters(), "train", 1e-6, retries=2)
    assert len(list(grid.fates)) == 6
