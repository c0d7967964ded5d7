"""FedPFT: its mixtures against scikit-learn's and plain moments, its draws against them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_scenarios import SMALL, changed, small
from typer.testing import CliRunner

import fedgraft
from clients.mixtures import FLOOR, mixtures, num_components
from fedgraft.cli import app
from fedgraft.errors import ScenarioError, WireError
from fedgraft.randomness import key, name_keys
from fedgraft.wire.mixtures import check_mixture_size, mixture_shapes
from scenarios.schema import Scenario
from strategies.base import Replies
from strategies.fedpft import FedPFT, drawn

COVARIANCES = {"spherical": "spherical", "diagonal": "diag", "full": "full"}
DIM = 4


def two_clients() -> tuple[NDArray[np.float32], NDArray[np.int64], list[NDArray[np.int64]]]:
    """The first: 60 samples of class 0 in two heaps, one of class 2; the second: 7 of class 0 and 12 of class 1."""
    draw = np.random.default_rng(6)
    classes = np.repeat([0, 2, 0, 1], [60, 1, 7, 12])
    features = draw.standard_normal((80, DIM)) @ draw.standard_normal((DIM, DIM)) + classes[:, None]
    features[:30] += 9
    return features.astype(np.float32), classes, [np.arange(61), np.arange(61, 80)]


def fitted(covariance: Any, most: int = 3) -> dict[str, NDArray[Any]]:
    features, classes, clients = two_clients()
    return mixtures(features, classes, clients, name_keys(["a", "b"]), 1, most, covariance)


def test_small_classes_get_fewer_components_and_are_never_dropped() -> None:
    assert [num_components(n, 3) for n in (1, 2, 9, 10, 15, 1000)] == [1, 1, 1, 2, 3, 3]
    rows = fitted("diagonal")
    assert rows["client"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert rows["class"].tolist() == [0, 0, 0, 2, 0, 1, 1]
    assert rows["count"].tolist() == [60, 60, 60, 1, 7, 12, 12]
    features, _, _ = two_clients()
    np.testing.assert_allclose(rows["mean"][3], features[60], rtol=1e-6)  # one sample is its mean
    assert (rows["covariance"] > 0).all()


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_mixtures_are_scikit_learn_s(covariance: str) -> None:
    """The heaps of the large class, and the one Gaussian of the small one by the closed form that skips the library."""
    from sklearn.mixture import GaussianMixture

    features, _, clients = two_clients()
    rows = fitted(covariance, 2)
    shapes = mixture_shapes(len(rows["class"]), DIM, covariance)  # type: ignore[arg-type]
    assert {name: value.shape for name, value in rows.items()} == shapes
    for first, own, components, client in ((0, np.arange(60), 2, 0), (3, np.arange(61, 68), 1, 1)):
        floor = FLOOR * np.square(features[clients[client]].astype(np.float64)).mean()
        state = int(key(1, "mixture", 0, name_keys(["a", "b"]))[client] % 2**32)
        oracle = GaussianMixture(
            components, covariance_type=COVARIANCES[covariance], reg_covar=floor, random_state=state, max_iter=200
        )
        oracle.fit(features[own].astype(np.float64))
        chosen = slice(first, first + components)
        np.testing.assert_allclose(rows["share"][chosen], oracle.weights_, rtol=1e-5)
        np.testing.assert_allclose(rows["mean"][chosen], oracle.means_, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(rows["covariance"][chosen], oracle.covariances_, rtol=1e-4, atol=1e-4)
    means = np.sort(rows["mean"][:2, 0])
    assert means[1] - means[0] > 5  # the two heaps are found


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_draws_have_the_mixture_s_moments(covariance: str) -> None:
    """200,000 draws of one mixture: mean and covariance of all of it, within their standard errors."""
    rows = {name: value[:2] for name, value in fitted(covariance, 2).items()}
    rows["count"] = np.array([200_000, 200_000])
    features, classes = drawn(rows, 3, 1)
    assert len(features) == len(classes) == 200_000
    assert set(classes.tolist()) == {0}
    matrix = {"spherical": lambda c: c * np.eye(DIM), "diagonal": np.diag, "full": lambda c: c}[covariance]
    shares = rows["share"] / rows["share"].sum()
    mean = shares @ rows["mean"]
    expected = sum(
        share * (matrix(own) + np.outer(centre - mean, centre - mean))
        for share, own, centre in zip(shares, rows["covariance"], rows["mean"], strict=True)
    )
    np.testing.assert_allclose(features.mean(axis=0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(features.T), expected, atol=0.02 * np.abs(expected).max())


def test_draws_of_a_client_do_not_depend_on_others() -> None:
    rows = fitted("diagonal")
    whole, classes = drawn(rows, 3, 2)
    assert np.bincount(classes).tolist() == [134, 24, 2]
    alone, _ = drawn({name: value[rows["client"] == 1] for name, value in rows.items()}, 3, 2)
    np.testing.assert_array_equal(whole[122:], alone)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_round_through_shards_changes_no_bit(covariance: str, tmp_path: Path) -> None:
    """And it is better than guessing among four classes."""
    strategy = {"name": "fedpft", "covariance": covariance}
    runs = [fedgraft.run(small(strategy=strategy, shards=shards), out=tmp_path / str(shards)) for shards in (1, 3)]
    np.testing.assert_array_equal(runs[0].head["weight"], runs[1].head["weight"])
    assert runs[0].summary["rounds"] == 1
    assert runs[0].summary["central"]["accuracy"] > 0.5


def test_class_that_nobody_has_never_wins() -> None:
    head = {"weight": np.zeros((4, DIM), dtype=np.float32), "bias": np.zeros(4, dtype=np.float32)}
    made = FedPFT().aggregate({}, head, (Replies({}, {}, 2, statistics=fitted("diagonal")),)).head
    features, _, _ = two_clients()
    assert 3 not in (features @ made["weight"].T + made["bias"]).argmax(axis=1)


def test_mixtures_that_would_not_fit() -> None:
    with pytest.raises(WireError, match=r"1,000 full Gaussians of 1,280 features are 6,5.* take covariance diagonal"):
        check_mixture_size(1000, 1280, "full")


def test_check_forecasts_bytes_and_other_targets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(changed(SMALL, {"strategy": "fedpft"})))
    answer = CliRunner().invoke(app, ["check", str(path)])
    assert "fedpft: at most" in answer.output
    block = changed(SMALL, {"strategy": "fedpft", "data.source.task": "real", "data.partition.name": "iid"})
    del block["data"]["partition"]["alpha"]
    with pytest.raises(ScenarioError, match=r"strategy: fedpft serves classes; the data's targets are real"):
        fedgraft.run(Scenario.model_validate_json(json.dumps(block)), out=tmp_path / "run")
