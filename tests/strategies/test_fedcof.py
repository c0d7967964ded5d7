"""FedCOF: its covariances against plain NumPy and against the truth, its head, and what hosts may not answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_scenarios import SMALL, changed, small

import fedgraft
from fedgraft.errors import FedGraftError, ScenarioError
from fedgraft.workspace import open_workspace
from scenarios.schema import Scenario
from strategies.base import Replies
from strategies.fedcof import FedCOF, within_classes


def clients_of(scenario: Scenario) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return features and classes of each client's training part."""
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    train, targets = workspace.federation.train, workspace.federation.samples.targets
    rows = [train.of(number) for number in range(len(train))]
    return [(workspace.features[own].astype(np.float64), targets[own]) for own in rows]


def by_the_paper(clients: list[tuple[Any, Any]], num_classes: int, gamma: float) -> NDArray[np.float64]:
    """Return the directions of `B G^-1`, class by class and client by client, as the paper writes them."""
    features = np.concatenate([own for own, _ in clients])
    targets = np.concatenate([own for _, own in clients])
    dim = features.shape[1]
    covariances, counts = [], []
    for c in range(num_classes):
        mean, estimate, num_clients = features[targets == c].mean(axis=0), np.zeros((dim, dim)), 0
        for own, classes in clients:
            if (classes == c).any():
                away = own[classes == c].mean(axis=0) - mean
                estimate += (classes == c).sum() * np.outer(away, away)
                num_clients += 1
        covariances.append(estimate / (num_clients - 1))
        counts.append((targets == c).sum())
    freedom = sum(counts) - num_classes
    within = sum((count - 1) * matrix for count, matrix in zip(counts, covariances, strict=True))
    variance = np.trace(within) / freedom / dim
    gram = within + freedom * gamma * variance * np.eye(dim)
    gram += len(features) * np.outer(features.mean(axis=0), features.mean(axis=0))
    weight = np.stack([np.linalg.inv(gram) @ features[targets == c].sum(axis=0) for c in range(num_classes)])
    return weight / np.linalg.norm(weight, axis=1, keepdims=True)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_head_is_the_paper_s(head: str, shards: int, tmp_path: Path) -> None:
    scenario = small(strategy={"name": "fedcof", "gamma": 0.3}, shards=shards, head=head)
    run = fedgraft.run(scenario, out=tmp_path / "run")
    weight = run.head["weight"].astype(np.float64)
    expected = by_the_paper(clients_of(scenario), 4, 0.3)
    np.testing.assert_allclose(weight / np.linalg.norm(weight, axis=1, keepdims=True), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(weight, axis=1), np.linalg.norm(weight[0]), rtol=1e-6)
    if head == "linear":
        assert not run.head["bias"].any()


def drawn(
    draw: np.random.Generator, sizes: NDArray[np.int64], mean: NDArray[Any], root: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return the rows that clients of one class send, whose samples are Gaussian with covariance `root root^T`."""
    features = mean + draw.standard_normal((sizes.sum(), len(mean))) @ root.T
    sums = np.add.reduceat(features, np.concatenate(([0], sizes.cumsum()[:-1])), axis=0)
    number = np.arange(len(sizes))
    return {"client": number, "class": np.zeros(len(sizes), dtype=np.int64), "count": sizes, "class_sum": sums}


ROOT = np.array([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-0.3, 0.7, 0.2]])


def test_covariance_is_unbiased_with_a_handful_of_uneven_clients() -> None:
    """The mean of 4,000 estimates from 5 clients; each is off by about 70 %, their mean by 1 %."""
    draw, sizes = np.random.default_rng(3), np.array([1, 2, 5, 9, 30])
    total = sum(within_classes(drawn(draw, sizes, np.ones(3), ROOT), 1)[2] for _ in range(4000))
    found = total / (4000 * (sizes.sum() - 1))
    np.testing.assert_allclose(found, ROOT @ ROOT.T, atol=0.04 * (ROOT @ ROOT.T).max())


def test_covariance_is_the_true_one_with_many_clients() -> None:
    draw = np.random.default_rng(4)
    sizes = draw.integers(1, 8, 20_000)
    found = within_classes(drawn(draw, sizes, np.array([3.0, 0.0, -2.0]), ROOT), 1)[2] / (sizes.sum() - 1)
    np.testing.assert_allclose(found, ROOT @ ROOT.T, atol=0.03 * (ROOT @ ROOT.T).max())


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_order_of_clients_does_not_matter(data: st.DataObject) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = {"client": np.arange(9), "class": draw.integers(0, 3, 9), "count": draw.integers(1, 5, 9)}
    rows["class_sum"] = draw.standard_normal((9, 4)) * 10
    order = np.array(data.draw(st.permutations(range(9))))
    found = within_classes(rows, 3), within_classes({name: value[order] for name, value in rows.items()}, 3)
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12 * max(1.0, np.abs(one).max()))


def test_hosts_and_shards_change_no_bit(tmp_path: Path) -> None:
    """The rows are put in the order of clients before anything is added."""
    runs = [fedgraft.run(small(strategy="fedcof", shards=shards), out=tmp_path / str(shards)) for shards in (1, 2, 9)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.head["weight"], runs[0].head["weight"])


def test_class_that_nobody_has_never_wins() -> None:
    rows = {"client": np.array([0, 1, 1, 2]), "class": np.array([0, 0, 2, 2]), "count": np.array([2, 2, 2, 2])}
    rows["class_sum"] = np.array([[4.0, 1.0], [4.0, -1.0], [-4.0, 1.0], [-4.0, -1.0]])
    head = {"weight": np.zeros((3, 2), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)}
    made = FedCOF().aggregate({}, head, (Replies({}, {}, 3, statistics=rows, num_samples=8),)).head
    points = np.random.default_rng(0).standard_normal((500, 2)) * 20
    outputs = points @ made["weight"].T + made["bias"]
    assert set(outputs.argmax(axis=1)) == {0, 2}
    assert (outputs.max(axis=1) - outputs[:, 1] >= 9.99).all()


def test_classes_at_one_client_each(tmp_path: Path) -> None:
    scenario = small(strategy="fedcof", **{"data.partition": {"name": "iid", "clients": 1}})
    with pytest.raises(FedGraftError, match=r"no class has differing means at two clients.*use ncm"):
        fedgraft.run(scenario, out=tmp_path / "run")


def test_targets_without_classes(tmp_path: Path) -> None:
    block = changed(SMALL, {"strategy": "fedcof", "data.source.task": "real", "data.partition.name": "iid"})
    del block["data"]["partition"]["alpha"]
    with pytest.raises(ScenarioError, match=r"strategy: fedcof serves classes; the data's targets are real"):
        fedgraft.run(Scenario.model_validate_json(json.dumps(block)), out=tmp_path / "run")
