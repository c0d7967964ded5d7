"""Moments from sums: those of scikit-learn's StandardScaler on the pooled features, under any split and order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_federation import FEATURE_DIM, Asked, federation
from sklearn.preprocessing import StandardScaler

from fedgraft.alignment.aligned import Domain, aligned
from fedgraft.alignment.maps import check_ground, ground
from fedgraft.alignment.moments import MomentKind, check_moments_size, moment_sums, moments_of
from fedgraft.alignment.settings import Coral, Standardise
from fedgraft.errors import StoreError, WireError
from fedgraft.simulation.inline import InlineGrid
from fedgraft.wire.frames import opened as opened_record
from server.alignment import Ground
from server.exchange import HostError
from server.forecast import forecast_of_alignment
from server.sites import Sites

Opened = Callable[..., Asked]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Open federations that are closed after the test."""
    with ExitStack() as stack:
        yield lambda *args, **values: stack.enter_context(federation(*args, **values))


def drawn(seed: int, num_samples: int = 60, num_features: int = 5) -> np.ndarray[Any, Any]:
    """Return features of unlike scales, one of which never varies."""
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((num_samples, num_features)) * [0.01, 1.0, 3.0, 50.0, 0.0]
    return (features + np.array([0.3, -2.0, 40.0, 0.0, 7.1])).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), max_size=6), st.randoms(use_true_random=False))
def test_any_split_in_any_order_is_the_pooled_scaler(seed: int, cuts: list[int], random: Any) -> None:
    """Clients may be empty; the order of samples and of clients does not matter."""
    features = drawn(seed)
    order = np.random.default_rng(seed).permutation(len(features))
    parts = np.split(order, sorted(cuts))
    random.shuffle(parts)
    sums = [moment_sums(features, part, "diagonal") for part in parts]
    total = {name: sum(one[name] for one in sums) for name in sums[0]}
    found = ground(Standardise(), moments_of(total))
    result = aligned(features.astype(np.float64), Standardise(), found, [Domain(order[:0], np.sort(order))])
    wanted = StandardScaler().fit_transform(features.astype(np.float64))
    np.testing.assert_allclose(result, wanted, rtol=0, atol=1e-8 * np.abs(wanted).max())


@pytest.mark.parametrize(("task", "shards", "num_hosts"), [("classes", 4, 3), ("real", 1, 1)])
def test_hosts_are_asked_for_training_samples_alone(task: str, shards: int, num_hosts: int, opened: Opened) -> None:
    asked = opened(task, shards, num_hosts)
    features = asked.features[asked.rows]
    diagonal, full = (moments_of(asked.inquiry.moments(kind)) for kind in ("diagonal", "full"))
    scaler = StandardScaler().fit(features)
    np.testing.assert_allclose(diagonal.mean, scaler.mean_, rtol=0, atol=1e-12)
    np.testing.assert_allclose(diagonal.variance, scaler.var_, rtol=1e-12)
    np.testing.assert_allclose(full.covariance, np.cov(features.T, bias=True), rtol=0, atol=1e-12)


def test_some_clients_may_be_asked(opened: Opened) -> None:
    asked = opened("classes", 2, 2)
    found = moments_of(asked.inquiry.moments("diagonal", np.array([0, 3])))
    features = asked.features[np.concatenate([asked.clients[0], asked.clients[3]])]
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=0, atol=1e-12)


def test_epsilon_stands_under_the_root() -> None:
    """By hand: of 1 and 3 mean and variance are 2 and 1, so the scale with an epsilon of 3 is 2."""
    sums = moment_sums(np.array([[1.0], [3.0]], dtype=np.float32), np.arange(2), "diagonal")
    assert ground(Standardise(epsilon=3.0), moments_of(sums)) == {"mean": np.array([2.0]), "scale": np.array([2.0])}


def test_a_feature_that_never_varies_is_centred() -> None:
    """0.1 in float32 a thousand times: sums of squares round, and the rest is no variance."""
    features = np.full((1000, 1), 0.1, dtype=np.float32)
    for kind in ("diagonal", "full"):
        moments = moments_of(moment_sums(features, np.arange(1000), kind))
        assert moments.variance.tolist() == [0.0]
    result = aligned(features, Standardise(), ground(Standardise(), moments), [Domain(np.arange(0), np.arange(1000))])
    assert np.abs(result).max() < 1e-7


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_that_are_not_asked_for_stay_empty_and_dtypes_stay(dtype: str) -> None:
    features = drawn(3)[:, :3].astype(dtype)
    found = ground(Standardise(), moments_of(moment_sums(features, np.arange(60), "diagonal")))
    rows = np.array([0, 1, 2, 7, 30, 31, 59])
    result = aligned(features, Standardise(), found, [Domain(rows[:0], rows)])
    wanted = StandardScaler().fit_transform(features.astype(np.float64))
    assert result.dtype == dtype
    np.testing.assert_allclose(result[rows], wanted[rows], rtol=0, atol=2e-3 if dtype == "float16" else 1e-6)
    assert not np.delete(result, rows, axis=0).any()


def good(kind: MomentKind = "diagonal") -> dict[str, Any]:
    return {"mean": np.zeros(2), "covariance": np.ones(2) if kind == "diagonal" else np.eye(2)}


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        ("standardise", {}, "the request's alignment is missing"),
        ("standardise", {"mean": np.zeros(2), "scale": np.array([1.0, 0.0])}, "scale goes down to 0; expected"),
        ("standardise", {"mean": np.zeros(3), "scale": np.ones(3)}, r"mean has shape \(3,\), expected \(2,\)"),
        ("standardise", {"mean": np.zeros(2, np.float32), "scale": np.ones(2)}, "mean is float32, expected float64"),
        ("standardise", {"mean": np.array([np.nan, 0]), "scale": np.ones(2)}, "values are not finite"),
        ("diagonal", {**good(), "covariance": np.array([1.0, -0.1])}, "a variance is -0.1; expected none below 0"),
        ("full", good("diagonal"), r"covariance has shape \(2,\), expected \(2, 2\)"),
        ("full", {"mean": np.zeros(2), "covariance": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
    ],
)
def test_what_arrives_is_checked(kind: Any, changes: dict[str, Any], text: str) -> None:
    align = Standardise() if kind == "standardise" else Coral(covariance=kind)
    with pytest.raises(WireError, match=text):
        check_ground(align, changes or None, 2, "the request's alignment")


@pytest.mark.parametrize(
    ("align", "found", "advice"),
    [
        (Standardise(), {"mean": np.zeros(1), "scale": np.array([1e-9])}, "raise align.epsilon"),
        (
            Coral(covariance="diagonal", regularisation=1e-12),
            {"mean": np.zeros(1), "covariance": np.array([1e12])},
            "raise align.regularisation",
        ),
    ],
    ids=["standardise", "coral"],
)
def test_features_that_grow_too_large_say_what_to_raise(align: Any, found: dict[str, Any], advice: str) -> None:
    features = np.array([[1.0], [2.0]], dtype=np.float16)
    with pytest.raises(StoreError, match=f"too much for float16; {advice}"):
        aligned(features, align, found, [Domain(np.arange(2), np.arange(2))])


@pytest.mark.parametrize("align", [Standardise(), Coral(covariance="diagonal"), Coral()], ids=str)
def test_bytes_are_forecast(align: Any) -> None:
    """By hand at 1,280 features, 8 bytes a number: 1 + 2 D up and 2 D down, or 1 + D + D^2 up and D + D^2 down."""
    full = isinstance(align, Coral) and align.covariance == "full"
    up, down = ("13,117,448", "13,117,440") if full else ("20,488", "20,480")
    line = forecast_of_alignment(align, 1280)
    assert f"{up} bytes from each shard of a host, once; {down} bytes more in each later message" in line


def test_moments_that_are_too_large_are_not_asked_for() -> None:
    check_moments_size(100_000, "diagonal")
    with pytest.raises(WireError, match="80,000,000,000 bytes, more than 1,000,000,000; take the diagonal"):
        check_moments_size(100_000, "full")


def test_the_width_of_the_federation(opened: Opened) -> None:
    assert opened().inquiry.moments("full")["second_moment"].shape == (FEATURE_DIM, FEATURE_DIM)


class SiteGrid(InlineGrid):
    """The inline runtime, whose hosts have names as sites have; those that are away can't be reached."""

    def __init__(self, grid: InlineGrid) -> None:
        super().__init__(grid._app, grid._contexts)
        self.away: set[int] = set()

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, name=f"clinic-{node}") for node in self._contexts]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return list(super().push_messages([_open(message) for message in messages]))

    def _answer(self, message: Message) -> Message:
        if message.metadata.dst_node_id in self.away:
            return Message(Error(2, "no, thank you"), reply_to=message)
        return super()._answer(message)


def _open(message: Message) -> Message:
    message.content = opened_record(message.content)
    return message


def test_a_reference_at_fewer_sites_than_the_quorum(opened: Opened, tmp_path: Path) -> None:
    """Of six clients at three sites two are the reference, at two sites at most; all three are needed otherwise."""
    asked = opened("classes", 6, 3)
    inquiry = asked.inquiry
    roster = inquiry.questions.roster
    grid = SiteGrid(inquiry.grid)  # type: ignore[arg-type]
    sites = Sites(("clinic-2", "clinic-3", "clinic-4"), 3, 10.0, 10.0)
    sites.look(grid)  # type: ignore[arg-type]
    align = Coral(reference=(roster.names[0], roster.names[3]), covariance="diagonal")
    of_run = Ground(grid, inquiry.questions, inquiry.counters, 10.0, sites, "s").of_run
    nodes = set(roster.nodes[[0, 3]].tolist())
    assert len(nodes) < 3
    found = of_run(align, tmp_path)
    features = asked.features[np.concatenate([asked.clients[0], asked.clients[3]])]
    np.testing.assert_allclose(found["mean"], features.mean(axis=0), rtol=0, atol=1e-12)
    grid.away = {min(nodes)}
    (tmp_path / "again").mkdir()
    with pytest.raises(HostError, match=rf"{len(nodes)} are needed \(align.reference\).*no, thank you"):
        of_run(align, tmp_path / "again")
