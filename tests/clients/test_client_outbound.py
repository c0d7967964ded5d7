"""The one outbound seam: everything that leaves passes it, it can be watched and held back, and its bytes are few."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.common.serde import recorddict_to_proto
from small_scenario import REPLIES, Site, evaluation, head_of, naming, request

import clients
from clients import answers
from clients.host import forget_hosts
from clients.outbound import Departure, watchers
from fedgraft.simulation.inline import InlineGrid
from fedgraft.wire.records import pack, record_bytes
from fedgraft.wire.requests import BackboneRequest, DescribeRequest

MODULES = {path.name: ast.parse(path.read_text()) for path in Path(clients.__file__).parent.rglob("*.py")}


@pytest.fixture(autouse=True)
def fresh_hosts() -> Iterator[None]:
    """Leave no resident host and no watcher behind."""
    forget_hosts()
    yield
    forget_hosts()
    watchers.clear()


def calls_in(tree: ast.AST) -> set[str]:
    """Return the last name of whatever is called: `Message` for `Message(...)` and for `app.Message(...)`."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def test_nothing_else_makes_a_message() -> None:
    makers = {"Message", "Error", "RecordDict", "ArrayRecord", "ConfigRecord", "MetricRecord", "pack", "create_reply"}
    found = {name: calls_in(tree) & makers for name, tree in MODULES.items()}
    assert {name: calls for name, calls in found.items() if calls} == {"outbound.py": {"Message", "Error", "pack"}}


def test_every_handler_answers_through_the_seam() -> None:
    """The one handler of all messages; what it returns was released here, or by the site's resident host."""
    functions = {node.name: node for node in MODULES["app.py"].body if isinstance(node, ast.FunctionDef)}
    returned = {
        name: {
            ast.unparse(node.value.func)
            for node in ast.walk(function)
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Call)
        }
        for name, function in functions.items()
    }
    assert returned == {"reply": set(), "_answered_at_site": {"pass_on"}, "_answered_here": {"send"}}
    assert {kind for kind, _ in REPLIES.values()} <= set(answers.REQUESTS)


GROUPS = {"head": head_of(), "clients": naming(0, 2)}
REQUESTS = [
    (DescribeRequest(run_id="r"), {}),
    (BackboneRequest(run_id="r", weights_digest="ab", feature_dim=3), {}),
    (request(), GROUPS),
    (evaluation(), GROUPS),
]


@pytest.mark.parametrize(("body", "groups"), REQUESTS, ids=lambda value: type(value).__name__)
def test_a_watcher_sees_what_leaves_before_it_leaves(body: object, groups: dict[str, dict[str, np.ndarray]]) -> None:
    seen: list[Departure] = []
    watchers.append(seen.append)
    message_type = REPLIES[type(body)][0]
    arrived = Site().send(pack(body, groups), message_type)
    assert [(departure.request, departure.num_bytes) for departure in seen] == [(message_type, record_bytes(arrived))]
    sent, came = seen[0].record, arrived
    assert sent["body"] == came["body"]
    assert recorddict_to_proto(sent).SerializeToString() == recorddict_to_proto(came).SerializeToString()


@pytest.mark.parametrize(("body", "groups"), REQUESTS, ids=lambda value: type(value).__name__)
def test_a_watcher_that_raises_keeps_the_record_in(body: object, groups: dict[str, dict[str, np.ndarray]]) -> None:
    def refuse(departure: Departure) -> None:
        raise PermissionError(f"{departure.num_bytes} bytes stay here")

    watchers.append(refuse)
    site = Site()
    with pytest.raises(PermissionError, match=r"\d+ bytes stay here"):
        site.send(pack(body, groups), REPLIES[type(body)][0])


def test_the_server_gets_the_refusal_and_nothing_else() -> None:
    """Behind a grid, a refusal of ours is an error reply without content."""
    from clients.app import app
    from fedgraft.errors import FedGraftError

    def refuse(departure: Departure) -> None:
        raise FedGraftError("the site's policy keeps this in")

    watchers.append(refuse)
    site = Site()
    grid = InlineGrid(app, {2: site.context})
    (reply,) = grid.send_and_receive([site.message(pack(request(), GROUPS), "train")])
    assert reply.has_error()
    assert reply.error.reason == "the site's policy keeps this in"
    assert not reply.has_content()


LARGE = {
    "data": {
        "source": {"name": "synthetic", "num_samples": 200, "num_classes": 10, "num_features": 1280},
        "partition": {"name": "iid", "clients": 20},
    }
}


def test_what_travels_in_a_head_round_is_the_head_alone() -> None:
    """A head of 1280 x 10 in float32 is 51,240 bytes; all else together is under 4 kB, whatever the 160 samples.

    Of the reply's rest, 800 bytes are the confusion matrix, and NumPy's headers are 128 bytes an array.
    """
    head = head_of(10, 1280)
    size = sum(value.nbytes for value in head.values())
    assert size == 51_240
    site = Site(**LARGE)
    everyone = pack(request(per_client=False), {"head": head, "clients": naming(*range(20))})
    reply = site.send(everyone, "train")
    for record in (everyone, reply):
        sent = len(recorddict_to_proto(record).SerializeToString())
        assert size < record_bytes(record) < sent < size + 4000
    alone = site.send(pack(request(per_client=False), {"head": head, "clients": naming(3)}), "train")
    assert abs(record_bytes(alone) - record_bytes(reply)) < 50  # one head, whatever the number of clients
    with_clients = site.send(pack(request(), {"head": head, "clients": naming(*range(20))}), "train")
    rows = with_clients["clients"]
    assert record_bytes(with_clients) - record_bytes(reply) < sum(128 + 20 * 8 for _ in rows.values()) + 50
    evaluated = site.send(pack(evaluation(per_client=False), {"head": head, "clients": naming(3)}), "evaluate")
    assert record_bytes(evaluated) < 2500
