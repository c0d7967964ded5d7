"""Sums and leave-one-client-out through Flower's messages: equal to what pooled samples give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from inline_federation import FEATURE_DIM, Asked, Opened, federation

from clients import outbound
from clients.outbound import Departure
from fedgraft.closed_form import predict, regression_moments, ridge
from fedgraft.errors import WireError
from fedgraft.wire.records import pack, unpack
from fedgraft.wire.requests import ClassSumsReply, CrossValidateReply, StatisticsReply
from fedgraft.wire.statistics import statistics_bytes
from server.exchange import HostError
from server.sums import combine_class_sums, combine_cross_validation, combine_statistics

TASKS = ("classes", "labels", "real")
NUM_OUTPUTS = {"classes": 3, "labels": 3, "real": 2}
LAMBDAS = (1e-3, 1.0, 30.0, 1e4)


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Open federations that are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **values: stack.enter_context(federation(*args, **values))


@pytest.fixture
def departures() -> Iterator[list[Departure]]:
    """What leaves the clients through their one outbound seam."""
    seen: list[Departure] = []
    outbound.watchers.append(seen.append)
    yield seen
    outbound.watchers.remove(seen.append)


@pytest.mark.parametrize(("shards", "num_hosts"), [(1, 1), (4, 1), (4, 3)])
@pytest.mark.parametrize("task", TASKS)
def test_sums_are_those_of_the_pooled_training_samples(task: str, shards: int, num_hosts: int, opened: Opened) -> None:
    """Validation and test samples are not in them, and nobody is counted twice, whatever the hosts."""
    asked = opened(task, shards, num_hosts)
    features, answers = asked.features[asked.rows], asked.answers[asked.rows]
    moments = regression_moments(asked.inquiry.statistics("shared"), task)
    answers = 2 * answers - 1 if task == "labels" else answers
    assert moments["count"] == len(asked.rows) < asked.workspace.federation.samples.num_samples
    expected = {"feature_sum": features.sum(axis=0), "target_sum": answers.sum(axis=0)}
    expected |= {"cross_moment": answers.T @ features, "second_moment": features.T @ features}
    for name, value in expected.items():
        np.testing.assert_allclose(moments[name], value, rtol=1e-12, atol=1e-12 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_hosts_change_no_bit(task: str, opened: Opened) -> None:
    """The same four shards behind one, two and four hosts."""
    found = [opened(task, 4, num_hosts).inquiry.statistics("shared") for num_hosts in (1, 2, 4)]
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)


@pytest.mark.parametrize("task", TASKS)
def test_ridge_from_sums_is_ridge_on_pooled_samples(task: str, opened: Opened) -> None:
    """Predictions equal scikit-learn's on all samples; labels are coded -1 and 1 there too."""
    from sklearn.linear_model import Ridge

    asked = opened(task, 2, 2)
    answers = 2 * asked.answers - 1 if task == "labels" else asked.answers
    head = ridge(regression_moments(asked.inquiry.statistics("shared"), task), 0.5)
    expected = Ridge(alpha=0.5).fit(asked.features[asked.rows], answers[asked.rows]).predict(asked.features)
    np.testing.assert_allclose(predict(head, asked.features), expected, rtol=0, atol=1e-8)


def refitted(asked: Asked, task: str, lambda_: float, bias: bool) -> Any:
    """What scikit-learn's Ridge gets right, refitted without each client in turn."""
    from sklearn.linear_model import Ridge

    answers = 2 * asked.answers - 1 if task == "labels" else asked.answers
    total: Any = 0
    for own in asked.clients:
        if len(own) == 0:
            continue
        others = np.setdiff1d(asked.rows, own)
        head = Ridge(alpha=lambda_, fit_intercept=bias).fit(asked.features[others], answers[others])
        outputs = head.predict(asked.features[own])
        if task == "classes":
            total += int((outputs.argmax(axis=1) == answers[own].argmax(axis=1)).sum())
        elif task == "labels":
            total += int(((outputs > 0) == (answers[own] > 0)).sum())
        else:
            total = total + np.square(outputs - answers[own]).sum(axis=0)
    return total


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_cross_validation_is_refitting_without_each_client(task: str, bias: bool, opened: Opened) -> None:
    """Counts equal to the last one, over shards and hosts; clients of one sample and of forty."""
    asked = opened(task, 3, 2)
    moments = regression_moments(asked.inquiry.statistics("shared"), task)
    found = asked.inquiry.cross_validate(moments, LAMBDAS, bias)
    expected = np.array([refitted(asked, task, lambda_, bias) for lambda_ in LAMBDAS])
    assert found.num_samples == len(asked.rows)
    if task == "real":
        np.testing.assert_allclose(found.counts["squared_error"], expected, rtol=1e-9)
        assert found.best == LAMBDAS[int(expected.sum(axis=1).argmin())]
    else:
        np.testing.assert_array_equal(found.counts["correct"], expected)
        assert found.best == max(
            lambda_ for lambda_, count in zip(LAMBDAS, expected, strict=True) if count == expected.max()
        )


def test_some_clients_may_be_asked(opened: Opened) -> None:
    """Sums of some and of the others add up to those of all: taking a client out is a subtraction."""
    asked = opened("classes", 3, 2)
    some, others = np.array([0, 3]), np.array([1, 2, 4, 5])
    whole = asked.inquiry.statistics("per_class")
    first, second = (asked.inquiry.statistics("per_class", chosen) for chosen in (some, others))
    for name, value in whole.items():
        np.testing.assert_allclose(first[name] + second[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
    assert first["class_count"].sum() == len(asked.clients[0]) + len(asked.clients[3])


def test_empty_clients_add_nothing(opened: Opened) -> None:
    """A very uneven split leaves some clients empty; with one client a shard, whole shards are."""
    asked = opened("classes", 12, 2, partition={"name": "dirichlet", "clients": 12, "alpha": 0.05})
    assert any(len(rows) == 0 for rows in asked.clients)
    moments = regression_moments(asked.inquiry.statistics("shared"), "classes")
    assert moments["count"] == len(asked.rows)
    assert asked.inquiry.cross_validate(moments, (1.0,)).scores[0] == refitted(asked, "classes", 1.0, True)


@pytest.mark.parametrize(
    ("task", "kind"),
    [(task, kind) for task in TASKS for kind in ("none", "diagonal", "shared")] + [("classes", "per_class")],
)
def test_bytes_are_forecast(task: str, kind: Any, opened: Opened, departures: list[Departure]) -> None:
    """The arrays of each reply to the last byte; its text is less than 100 bytes more."""
    asked = opened(task, 2)
    departures.clear()
    asked.inquiry.statistics(kind)
    forecast = statistics_bytes(NUM_OUTPUTS[task], FEATURE_DIM, kind, task)
    assert [departure.request for departure in departures] == ["query.statistics"] * 2
    for departure in departures:
        assert sum(len(array.data) for array in departure.record.array_records["sums"].values()) == forecast
        assert 0 < departure.num_bytes - forecast < 100


def test_counts_alone_leave_in_cross_validation(opened: Opened, departures: list[Departure]) -> None:
    """One message a shard and host, through the outbound seam, with one number a lambda."""
    asked = opened("classes", 3, 2)
    moments = regression_moments(asked.inquiry.statistics("shared"), "classes")
    departures.clear()
    asked.inquiry.cross_validate(moments, LAMBDAS)
    assert [departure.request for departure in departures] == ["query.cross_validate"] * 3
    for departure in departures:
        body, groups = unpack(departure.record, CrossValidateReply, "reply")
        assert {name: list(arrays) for name, arrays in groups.items()} == {"counts": ["correct"]}
        assert groups["counts"]["correct"].shape == (len(LAMBDAS),)
        assert groups["counts"]["correct"].max() <= body.num_samples


def test_a_host_refuses_moments_without_its_own_samples(opened: Opened) -> None:
    asked = opened()
    moments = regression_moments(asked.inquiry.statistics("shared", np.array([0, 1, 2, 3])), "classes")
    with pytest.raises(HostError, match=r"failed in 'cross_validate': .* do not contain this host's own samples"):
        asked.inquiry.cross_validate(moments, (1.0,))


def test_one_client_with_samples_can_not_choose_lambda(opened: Opened) -> None:
    asked = opened(partition={"name": "iid", "clients": 1})
    moments = regression_moments(asked.inquiry.statistics("shared"), "classes")
    with pytest.raises(WireError, match="1 of 1 clients have training samples; leave-one-client-out needs two"):
        asked.inquiry.cross_validate(moments, (1.0,))


@pytest.mark.parametrize("lambda_", [0.0, -1.0, float("nan"), float("inf"), 1e-300])
def test_lambdas_are_checked(lambda_: float, opened: Opened) -> None:
    """Before anything is asked: 1e-300 can't be told from the rounding of the sums."""
    asked = opened()
    moments = regression_moments(asked.inquiry.statistics("shared"), "classes")
    with pytest.raises(WireError, match=r"lambda came as .*; expected a number above 0 and not below .*, the rounding"):
        asked.inquiry.cross_validate(moments, (1.0, lambda_))


@pytest.mark.parametrize("number", [0, 101])
def test_the_number_of_lambdas_is_checked(number: int, opened: Opened) -> None:
    asked = opened()
    moments = regression_moments(asked.inquiry.statistics("shared"), "classes")
    with pytest.raises(WireError, match=f"{number} lambdas came; expected 1 to 100"):
        asked.inquiry.cross_validate(moments, [1.0] * number)


def test_sums_that_are_too_large_are_not_asked_for(opened: Opened, departures: list[Departure]) -> None:
    asked = opened()
    departures.clear()
    wide = replace(asked.inquiry, questions=replace(asked.inquiry.questions, feature_dim=8192))
    with pytest.raises(WireError, match="second_moment 'per_class' of 3 outputs and 8,192 features is 1,610"):
        wide.statistics("per_class")
    assert departures == []


GOOD_BODY = StatisticsReply(shard=0, num_clients=6, num_samples=0)


def altered(asked: Asked, kind: Any, change: Callable[[dict[str, Any]], dict[str, Any]], **body: int) -> str:
    """Return the error that sums of all clients raise after a change to them or to the reply's body."""
    calls = asked.inquiry.questions.roster.calls(np.arange(6))
    sums = change({name: value.copy() for name, value in asked.inquiry.statistics(kind).items()})
    said = GOOD_BODY.model_copy(update={"num_samples": len(asked.rows), **body})
    record = pack(said, {"sums": sums})
    reply = Message(record, dst_node_id=1, message_type="query.statistics")
    with pytest.raises(WireError) as error:
        combine_statistics(calls, [reply], asked.inquiry.questions.roster, FEATURE_DIM, kind)
    return str(error.value)


def at(name: str, place: Any, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(sums: dict[str, Any]) -> dict[str, Any]:
        sums[name][place] = value
        return sums

    return change


def test_replies_that_do_not_fit_are_refused(opened: Opened) -> None:
    """Each by its text, which names the host."""
    asked = opened()
    same = dict[str, Any]
    start = "reply to query.statistics, shard 0, host 2"
    assert altered(asked, "shared", same, shard=1) == f"{start} says that it is for shard 1; a stale reply"
    text = altered(asked, "shared", same, num_samples=7)
    assert f"{start} speaks of 7 samples of 6 clients; asked for {len(asked.rows)} of 6" in text
    assert "missing class_sum" in altered(asked, "shared", lambda sums: {k: sums[k] for k in sums if k != "class_sum"})
    assert "class_count has shape (2,), expected (3,)" in altered(
        asked, "shared", lambda sums: sums | {"class_count": np.ones(2)}
    )
    assert "class_sum is of type float32, expected float64" in altered(
        asked, "none", lambda sums: sums | {"class_sum": sums["class_sum"].astype(np.float32)}
    )
    assert "1 of 18 values that are not finite" in altered(asked, "none", at("class_sum", (0, 0), np.nan))
    assert "its counts add up to" in altered(asked, "none", at("class_count", 0, 0.5))
    assert "its counts add up to" in altered(asked, "none", at("class_count", 0, -1.0))
    smaller = "sums of squares are smaller than the sums of features allow"
    assert smaller in altered(asked, "shared", at("second_moment", (0, 0), 0.0))
    assert smaller in altered(asked, "per_class", at("second_moment", (1, 2, 2), -1.0))
    assert smaller in altered(asked, "diagonal", at("square_sum", (0, 0), 0.0))
    assert "second_moment is not symmetric (largest difference" in altered(
        asked, "shared", at("second_moment", (0, 1), 1e6)
    )


def test_radial_moments_of_a_federation_are_the_pooled_ones(opened: Opened, departures: list[Departure]) -> None:
    """Through the messages, over shards and hosts, by the definition; what leaves is named and counted."""
    asked = opened("classes", 3, 2)
    departures.clear()
    found = asked.inquiry.statistics("shared", radial_moments=True)
    features = asked.features[asked.rows]
    lengths = np.array([x @ x for x in features])
    np.testing.assert_allclose(found["third_moment"], sum(q * x for q, x in zip(lengths, features, strict=True)))
    assert float(found["fourth_moment"]) == pytest.approx(sum(q * q for q in lengths), rel=1e-12)
    forecast = statistics_bytes(3, FEATURE_DIM, "shared", "classes", True)
    for departure in departures:
        assert set(departure.record.array_records["sums"]) >= {"third_moment", "fourth_moment"}
        assert 0 < departure.num_bytes - forecast < 100


def test_radial_moments_that_no_samples_have_are_refused(opened: Opened) -> None:
    """The sum of |x|^4 can't be less than that of |x|^2 squared over n, nor |sum |x|^2 x|^2 more than both allow."""
    asked = opened()
    roster = asked.inquiry.questions.roster
    calls = roster.calls(np.arange(6))
    good = asked.inquiry.statistics("shared", radial_moments=True)

    def combined(**changes: Any) -> Any:
        body = GOOD_BODY.model_copy(update={"num_samples": len(asked.rows)})
        reply = Message(pack(body, {"sums": good | changes}), dst_node_id=1, message_type="query.statistics")
        return combine_statistics(calls, [reply], roster, FEATURE_DIM, "shared", True)

    np.testing.assert_array_equal(combined()["fourth_moment"], good["fourth_moment"])
    smaller = "fourth_moment is smaller than the other sums allow; no samples have such"
    length = np.trace(good["second_moment"])
    for changes in (
        {"fourth_moment": np.array(0.99 * length**2 / len(asked.rows))},
        {"fourth_moment": np.array(-1.0)},
        {"third_moment": np.full(FEATURE_DIM, 1.01 * np.sqrt(length * good["fourth_moment"] / FEATURE_DIM))},
    ):
        with pytest.raises(WireError, match=smaller):
            combined(**changes)
    with pytest.raises(WireError, match="missing third_moment"):
        combine_statistics(
            calls,
            [
                Message(
                    pack(
                        GOOD_BODY.model_copy(update={"num_samples": len(asked.rows)}),
                        {"sums": {name: value for name, value in good.items() if name != "third_moment"}},
                    ),
                    dst_node_id=1,
                    message_type="query.statistics",
                )
            ],
            roster,
            FEATURE_DIM,
            "shared",
            True,
        )


def test_sums_of_labels_must_be_counts(opened: Opened) -> None:
    asked = opened("labels")
    text = altered(asked, "none", at("target_sum", 0, 1e4))
    assert f"target_sum is no count of labels among {len(asked.rows)} samples" in text


@pytest.mark.parametrize(
    ("correct", "text"),
    [
        (np.array([1.0, 2.0]), "correct is of type float64, expected int64"),
        (np.array([1, 1000]), "correct goes from 1 to 1000; expected 0 to "),
        (np.array([-1, 0]), "correct goes from -1 to 0; expected 0 to "),
        (np.array([1]), r"correct has shape \(1,\), expected \(2,\)"),
    ],
)
def test_counts_that_can_not_be_are_refused(correct: Any, text: str, opened: Opened) -> None:
    asked = opened()
    body = CrossValidateReply(shard=0, num_clients=6, num_samples=len(asked.rows))
    reply = Message(pack(body, {"counts": {"correct": correct}}), dst_node_id=1, message_type="query.cross_validate")
    roster = asked.inquiry.questions.roster
    with pytest.raises(WireError, match=text):
        combine_cross_validation(roster.calls(np.arange(6)), [reply], roster, (0.1, 1.0))


def changed_rows(reply: Message, **changes: Callable[[Any], Any]) -> Message:
    """Return a reply to `query.class_sums` with some of its arrays changed."""
    body, groups = unpack(reply.content, ClassSumsReply, "the reply")
    rows = {name: changes[name](value.copy()) if name in changes else value for name, value in groups["rows"].items()}
    reply.content = pack(body, {"rows": rows})
    return reply


@pytest.mark.parametrize("num_hosts", [1, 3])
def test_class_sums_of_each_client(num_hosts: int, opened: Opened) -> None:
    """One row a client and class that it has, by client, then class, whatever the hosts."""
    asked = opened("classes", 3, num_hosts)
    found = asked.inquiry.class_sums()
    classes = asked.answers.argmax(axis=1)
    expected = [
        (client, number, (classes[rows] == number).sum(), asked.features[rows][classes[rows] == number].sum(axis=0))
        for client, rows in enumerate(asked.clients)
        for number in range(3)
        if (classes[rows] == number).any()
    ]
    for name, column in zip(("client", "class", "count", "class_sum"), zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(found[name], np.array(column), rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"client": lambda value: value + 3}, r"client goes from 3 to 8; expected 0 to 5"),
        ({"class": lambda value: value - 1}, r"class goes from -1 to 1; expected 0 to 2"),
        ({"client": lambda value: value[::-1]}, r"not ordered by client and class"),
        ({"count": lambda value: value + 1}, r"those of 6 of 6 clients don't"),
        ({"count": lambda value: value.astype(np.float64)}, r"count is of type float64, expected int64"),
        ({"class_sum": lambda value: value[:, 1:]}, r"class_sum has shape \(\d+, 5\), expected \(\d+, 6\)"),
    ],
)
def test_rows_that_clients_can_t_have(changes: dict[str, Any], text: str, opened: Opened) -> None:
    asked = opened("classes")
    questions, grid = asked.inquiry.questions, asked.inquiry.grid
    calls = questions.roster.calls(np.arange(6))
    replies = [changed_rows(reply, **changes) for reply in grid.send_and_receive(questions.class_sums(calls))]
    with pytest.raises(WireError, match=text):
        combine_class_sums(calls, replies, questions.roster, FEATURE_DIM)


def test_class_sums_of_real_targets_are_refused(opened: Opened) -> None:
    with pytest.raises(HostError, match=r"query.class_sums needs one class a sample; the targets are 'real'"):
        opened("real").inquiry.class_sums()
