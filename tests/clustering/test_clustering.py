"""Clusters and principal axes from sums against scikit-learn on all samples in one place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_scenarios import small, small_file

import fedgraft
from clients.clusters import Nearest, cluster_sums
from fedgraft import cli
from fedgraft.clustering.agreement import adjusted_rand, named_accuracy, names_of, normalised_information
from fedgraft.clustering.records import Clustering
from fedgraft.data.federation import build_federation
from fedgraft.errors import FedGraftError, WireError
from fedgraft.tensor_files import read_tensors


def pooled(scenario: Any) -> tuple[Any, np.ndarray]:
    """Return the federation, and all training samples' features in one place, float64."""
    federation = build_federation(scenario.data, scenario.seed)
    return federation, federation.samples.features()[federation.train.indices].astype(np.float64)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clustering, np.ndarray]:
    """Return a clustering from two given first centres, and these."""
    scenario = small(shards=3)
    _, rows = pooled(scenario)
    first = rows[[3, 50, 120, 170]]
    made = fedgraft.cluster(scenario, clusters=4, first=first[None], out=tmp_path_factory.mktemp("clusters") / "out")
    return made, first


def test_lloyds_steps_are_those_of_scikit_learn(found: tuple[Clustering, np.ndarray]) -> None:
    from sklearn.cluster import KMeans

    made, first = found
    _, rows = pooled(small(shards=3))
    oracle = KMeans(4, init=first, n_init=1, algorithm="lloyd", tol=0, max_iter=300).fit(rows)
    order = np.argsort(-np.bincount(oracle.labels_), kind="stable")
    assert [one.size for one in made.clusters] == np.bincount(oracle.labels_)[order].tolist()
    ours = made.centres[np.lexsort(made.centres.T)]
    theirs = oracle.cluster_centers_[np.lexsort(oracle.cluster_centers_.T)]
    assert np.abs(ours - theirs).max() < 1e-8 * np.abs(theirs).max()
    assert made.inertias[-1] == pytest.approx(oracle.inertia_, rel=1e-10)
    assert made.converged
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in zip(made.inertias, made.inertias[1:], strict=False))


def test_principal_axes_are_those_of_scikit_learn(found: tuple[Clustering, np.ndarray]) -> None:
    from sklearn.decomposition import PCA

    _, rows = pooled(small(shards=3))
    oracle = PCA().fit(rows)
    axes = found[0].axes
    signs = np.sign((axes * oracle.components_).sum(axis=1))
    assert np.abs(axes - signs[:, None] * oracle.components_).max() < 1e-8
    assert np.allclose(found[0].explained_variance_ratio, oracle.explained_variance_ratio_, atol=1e-10)
    assert np.allclose(found[0].mean, rows.mean(axis=0), atol=1e-12)


def test_agreement_with_classes_is_scikit_learns(found: tuple[Clustering, np.ndarray]) -> None:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    made, _ = found
    federation, rows = pooled(small(shards=3))
    classes = federation.samples.targets[federation.train.indices]
    labels = np.square(rows[:, None] - made.centres).sum(axis=2).argmin(axis=1)
    assert made.adjusted_rand == pytest.approx(adjusted_rand_score(classes, labels), abs=1e-12)
    assert made.normalised_information == pytest.approx(normalized_mutual_info_score(classes, labels), abs=1e-12)
    owners = federation.train.owners
    for client in range(federation.num_clients):
        assert made.client_counts[client].tolist() == np.bincount(labels[owners == client], minlength=4).tolist()


def test_explained_variance_and_silhouette_by_the_definition(found: tuple[Clustering, np.ndarray]) -> None:
    made, _ = found
    _, rows = pooled(small(shards=3))
    distances = np.sort(np.sqrt(np.square(rows[:, None] - made.centres).sum(axis=2)), axis=1)
    assert made.silhouette == pytest.approx(float(np.mean(1 - distances[:, 0] / distances[:, 1])), abs=1e-9)
    total = np.square(rows - rows.mean(axis=0)).sum()
    assert made.explained == pytest.approx(1 - np.square(distances[:, 0]).sum() / total, abs=1e-9)


def test_after_projection_clusters_are_those_of_the_projected_samples(tmp_path: Path) -> None:
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    scenario = small()
    _, rows = pooled(scenario)
    first = rows[[5, 60, 100]]
    made = fedgraft.cluster(scenario, clusters=3, components=2, first=first[None], out=tmp_path / "out")
    axes = PCA(2).fit(rows)
    projected = axes.transform(rows)
    oracle = KMeans(3, init=axes.transform(first), n_init=1, algorithm="lloyd", tol=0).fit(projected)
    assert made.inertias[-1] == pytest.approx(oracle.inertia_, rel=1e-9)
    assert sorted(one.size for one in made.clusters) == sorted(np.bincount(oracle.labels_).tolist())


def test_drawn_starts_find_separate_classes_and_name_them_by_few_labels(tmp_path: Path) -> None:
    scenario = small(**{"data.source.separation": 12.0})
    made = fedgraft.cluster(scenario, clusters=4, labelled=1, out=tmp_path / "out")
    assert made.adjusted_rand == pytest.approx(1.0)
    assert {one.name for one in made.clusters} == {"class-0", "class-1", "class-2", "class-3"}
    assert made.named_accuracy == 1.0
    assert len(made.starts) == 8
    assert made.inertias[-1] == pytest.approx(min(made.starts), rel=1e-9)


def test_split_and_order_of_clients_change_only_rounding(tmp_path: Path) -> None:
    partitions = [{"name": "iid", "clients": 1}, {"name": "dirichlet", "clients": 12, "alpha": 0.3}]
    changes = {"data.validation_fraction": 0.0}
    one, other = (
        fedgraft.cluster(small(**changes, **{"data.partition": partition}), clusters=3, out=tmp_path / str(number))
        for number, partition in enumerate(partitions)
    )
    assert np.abs(one.centres - other.centres).max() < 1e-10
    assert one.inertias == pytest.approx(other.inertias)


@given(
    arrays(np.int64, (20, 2), elements=st.integers(-50, 50)),
    arrays(np.int64, 20, elements=st.integers(0, 3)),
    arrays(np.int64, (2, 3, 2), elements=st.integers(-50, 50)),
)
def test_sums_of_parts_are_those_of_the_whole(features: np.ndarray, part_of: np.ndarray, centres: np.ndarray) -> None:
    """Of whole numbers, so that every order of adding gives the same bits."""
    nearest = Nearest(features.astype(np.float64), {"centres": centres.astype(np.float64), "mean": np.zeros(2)})
    whole = cluster_sums(nearest, np.arange(20))
    parts = [cluster_sums(nearest, np.flatnonzero(part_of == number)) for number in range(4)]
    for name, value in whole.items():
        assert np.array_equal(sum(part[name] for part in parts), value), name


def test_the_sums_by_hand() -> None:
    """Rows 0, 1 and 10 on a line, centres 0 and 9: the first gets 0 + 1, squared distances 0 + 1; the second 10, 1."""
    features, centres = np.array([[0.0], [1.0], [10.0]]), np.array([[[0.0], [9.0]]])
    sums = cluster_sums(Nearest(features, {"centres": centres, "mean": np.zeros(1)}), np.arange(3))
    assert sums["count"].tolist() == [[2, 1]]
    assert sums["sum"].tolist() == [[[1.0], [10.0]]]
    assert sums["inertia"].tolist() == [[1.0, 1.0]]


def test_agreement_by_hand() -> None:
    """Clusters equal to classes agree wholly; one cluster for all says nothing; names go by the most votes."""
    assert adjusted_rand(np.array([[3, 0], [0, 4]])) == 1.0
    assert normalised_information(np.array([[3, 0], [0, 4]])) == pytest.approx(1.0)
    assert adjusted_rand(np.array([[3], [4]])) == 0.0
    assert normalised_information(np.array([[3], [4]])) == 0.0
    names = names_of(np.array([[2, 1, 0], [1, 1, 0]]))
    assert names == (0, 0, None)
    assert named_accuracy(names, np.array([[5, 1, 2], [0, 1, 1]])) == 0.6


def test_the_files_hold_what_was_found(found: tuple[Clustering, np.ndarray]) -> None:
    made = found[0]
    kept, facts = read_tensors(made.directory / "clusters.safetensors")
    assert np.array_equal(kept["centres"], made.centres)
    assert facts["scenario"] == "small"
    told = json.loads((made.directory / "clusters.json").read_text())
    assert [one["size"] for one in told["clusters"]] == [one.size for one in made.clusters]
    lines = (made.directory / "clusters.csv").read_text().splitlines()
    assert lines[0] == "client,cluster,num_train"
    assert sum(int(line.rpartition(",")[2]) for line in lines[1:]) == made.num_samples


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clusters": 5000}, "clusters: came 5,000, but clients have 205 training samples"),
        ({"clusters": 1}, "clusters: came 1; expected a whole number of at least 2"),
        ({"clusters": 3, "components": 7}, "components: came 7, but there are 6 features"),
        ({"clusters": 3, "starts": 0}, "starts: came 0; expected a whole number of at least 1"),
        (
            {"clusters": 3, "first": np.zeros((1, 2, 6))},
            "came first centres of shape (1, 2, 6); expected (starts, 3, 6)",
        ),
    ],
)
def test_what_the_samples_can_not_give_is_refused(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(FedGraftError) as caught:
        fedgraft.cluster(small(), **options, out=tmp_path / "out")
    assert text in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_sites_and_alignment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedGraftError, match="the data lie at sites, which answer no request for clusters"):
        fedgraft.cluster(small(**{"data.source": "sites", "data.partition": "natural"}), clusters=2)
    with pytest.raises(FedGraftError, match="align came, but clusters are of features as they are"):
        fedgraft.cluster(small(align="standardise"), clusters=2)


def test_a_host_refuses_centres_that_do_not_fit() -> None:
    with pytest.raises(WireError, match="expected float64 centres of 3 features, or of axes"):
        Nearest(np.zeros((4, 3)), {"centres": np.zeros((1, 2, 2)), "mean": np.zeros(3)})


def test_the_command_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = small_file(tmp_path), tmp_path / "out"
    command = ["fedgraft", "cluster", str(path), "-k", "3", "--steps", "1", "--starts", "2", "--out", str(folder)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 0
    assert "adjusted Rand index" in said.out
    assert "(not converged); the best of 2 starts" in " ".join(said.out.split())
    assert "after 1 step samples still changed their cluster; give more --steps" in " ".join(said.err.split())
