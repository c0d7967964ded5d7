"""The roll call: who speaks for whom, and which hosts are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hand_made_hosts import description, grid_of, roster_of

from fedgraft.errors import WireError
from server import roster
from server.checkpoint import Counters


def test_clients_in_the_order_of_their_names_whatever_their_host() -> None:
    hosts = {7: description(["d", "b"], clients={"num_train": np.array([4, 2])}), 3: description(["c", "a"])}
    called = roster_of(grid_of(hosts), num_shards=2)
    assert called.names == ("a", "b", "c", "d")
    assert called.nodes.tolist() == [3, 7, 3, 7]
    assert called.positions.tolist() == [1, 1, 0, 0]
    assert called.num_train.tolist() == [5, 2, 5, 4]
    assert called.shards.tolist() == [0, 0, 1, 1]
    assert (called.task, called.label_names) == ("classes", ("cat", "dog"))


def test_one_call_a_shard_and_host_in_shard_order() -> None:
    names = [f"client-{number}" for number in range(6)]
    called = roster_of(grid_of({7: description(names[:3]), 3: description(names[3:])}), num_shards=3)
    assert called.shards.tolist() == [0, 0, 1, 1, 2, 2]
    calls = called.calls(np.array([0, 2, 3, 4, 5]))
    assert [(call.shard, call.node) for call in calls] == [(0, 7), (1, 7), (1, 3), (2, 3)]
    assert [call.clients.tolist() for call in calls] == [[0], [2], [3], [4, 5]]
    assert [call.index.tolist() for call in calls] == [[0], [2], [0], [1, 2]]


def test_hosts_without_clients_are_no_fault() -> None:
    called = roster_of(grid_of({3: description(["a"]), 4: description([])}))
    assert called.names == ("a",)
    assert [call.node for call in called.calls(np.array([0]))] == [3]


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ([(["a"], {"code_digest": "0" * 64})], r"host 2 runs other code \(0{12}, release 0\.1\.0\) than the server"),
        ([(["a", "b"], {}), (["b"], {})], "two hosts speak for b; each client needs one host"),
        ([(["a"], {}), (["b"], {"label_names": ("dog", "cat")})], "hosts disagree about label_names: .*'cat', 'dog'"),
        ([(["a"], {}), (["b"], {"task": "real"})], "hosts disagree about task: classes, real"),
        ([(["a"], {}), (["b"], {"feature_dim": 4})], "hosts disagree about feature_dim: 3, 4"),
        (
            [(["a"], {"feature_names": ("age", "bmi")}), (["b"], {"feature_names": ("bmi", "age")})],
            "the same order: host 2 has 2, host 3 has 2 and them in another order; name the columns",
        ),
        (
            [(["a"], {"feature_names": ("age", "bmi")}), (["b"], {"feature_names": ("age", "BMI")})],
            "host 2 has 2, host 3 has 2 and lacks 'bmi' and has 'BMI' besides",
        ),
        ([([], {})], "no host speaks for any client"),
        ([(["a"], {"clients": {"num_train": np.array([1, 2])}})], r"num_train has shape \(2,\), expected \(1,\)"),
        ([(["a"], {"clients": {"num_train": np.array([-1])}})], "num_train must be whole numbers from 0"),
        ([(["a"], {"clients": {"num_validation": np.array([0.5])}})], "num_validation must be whole numbers"),
        ([(["a"], {"clients": {"names": np.array([255], dtype=np.uint8)}})], "names are not UTF-8"),
        ([(["a"], {"clients": {"names": np.array([1.0])}})], "names are missing"),
        ([(["a"], {"clients": {"more": np.array([1.0])}})], "unexpected more"),
    ],
)
def test_refused(hosts: list[tuple[list[str], dict[str, Any]]], text: str) -> None:
    described = {2 + number: description(names, **changes) for number, (names, changes) in enumerate(hosts)}
    with pytest.raises(WireError, match=text):
        roster_of(grid_of(described))


def test_too_few_hosts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's own simulation may start fewer than there will be: a host says how many it knows of."""
    monkeypatch.setattr(roster, "NODE_WAIT_SECONDS", 0.2)
    with pytest.raises(WireError, match=r"1 of 2 hosts came within 0\.2 s"):
        roster.call_the_roll(grid_of({2: description(["a"])}), "run-0001", 2, 1, Counters(), 5.0)
    with pytest.raises(WireError, match=r"1 of 3 hosts came within 0\.2 s"):
        roster_of(grid_of({2: description(["a"], num_hosts=3)}))
