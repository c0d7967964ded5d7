"""Federations: what is held out, who gets what, what is said, and what a warm call costs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgraft.data.federation import Federation
from fedgraft.data.partitions import _divide, _partitioner
from fedgraft.data.settings import (
    DirichletSettings,
    IidSettings,
    NaturalSettings,
    PathologicalSettings,
    ShardsSettings,
    SizesSettings,
)
from fedgraft.errors import DataError

Build = Callable[..., Federation]
TABLE = {"name": "synthetic", "num_samples": 400, "num_classes": 5, "num_features": 3, "num_clients": 8}
PARTITIONS = [
    {"name": "iid", "clients": 7},
    {"name": "dirichlet", "clients": 30, "alpha": 0.05},
    {"name": "pathological", "clients": 10, "classes_per_client": 2},
    {"name": "shards", "clients": 10, "shards_per_client": 2},
    {"name": "sizes", "sizes": [100, 200, 20]},
    {"name": "natural"},
]


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda partition: partition["name"])
def test_every_sample_is_in_exactly_one_part(build: Build, partition: dict[str, Any]) -> None:
    federation = build(TABLE, partition)
    parts = [federation.train.indices, federation.validation.indices, federation.test]
    assert np.sort(np.concatenate(parts)).tolist() == list(range(400))
    assert federation.label_counts().sum() == 400 - len(federation.test)
    assert federation.num_clients == len(federation.train) == len(federation.validation)


@pytest.mark.parametrize("partition", PARTITIONS, ids=lambda partition: partition["name"])
def test_the_seed_decides_and_a_warm_call_repeats(build: Build, partition: dict[str, Any]) -> None:
    first, again = build(TABLE, partition), build(TABLE, partition)
    assert first.digest() == again.digest()
    assert first.client_names == again.client_names
    assert first.notes == again.notes
    np.testing.assert_array_equal(first.train.indices, again.train.indices)
    digits = [build("digits", {"name": "iid", "clients": 4}, seed=seed) for seed in (1, 2)]
    assert digits[0].samples.digest() == digits[1].samples.digest()
    assert digits[0].digest() != digits[1].digest()


@pytest.mark.parametrize(
    "settings",
    [
        IidSettings(clients=7),
        DirichletSettings(clients=12, alpha=0.2),
        PathologicalSettings(clients=9, classes_per_client=2),
        ShardsSettings(clients=6, shards_per_client=3),
        SizesSettings(sizes=(5, 50, 100)),
        NaturalSettings(),
    ],
    ids=lambda settings: settings.name,
)
def test_division_equals_the_partitioners_on_a_real_table(settings: Any) -> None:
    """The oracle is flwr-datasets on a plain Arrow table, row numbers read back from each partition."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 300)
    if settings.name == "shards":
        labels = np.sort(labels)
    columns = {"row": np.arange(300), "label": labels, "owner": draw.choice(["a", "b", "c"], 300)}
    parts, owners = _divide(columns, settings, 11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

        partitioner = _partitioner(settings, 11)
        partitioner.dataset = datasets.Dataset.from_dict(columns)
        expected = [partitioner.load_partition(number)["row"] for number in range(partitioner.num_partitions)]
    assert [part.tolist() for part in parts] == [list(rows) for rows in expected]
    assert owners == (("a", "b", "c") if settings.name == "natural" else ())


def test_the_test_part_has_its_fraction_of_every_class(build: Build) -> None:
    federation = build("digits", {"name": "iid", "clients": 3}, test_fraction=0.25)
    targets = federation.samples.targets
    expected = np.floor(0.25 * np.bincount(targets) + 0.5)
    np.testing.assert_array_equal(np.bincount(targets[federation.test]), expected)
    assert len(build("digits", {"name": "iid", "clients": 3}, test_fraction=0).test) == 0


def test_a_class_of_one_sample_is_not_held_out(build: Build, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.eye(5), labels=[0, 0, 0, 0, 1])
    source = {"name": "arrays", "path": str(tmp_path / "a.npz")}
    federation = build(source, {"name": "iid", "clients": 1}, test_fraction=0.9)
    assert 4 not in federation.test
    assert len(federation.test) == 3


def test_pathological_clients_hold_their_number_of_classes(build: Build) -> None:
    counts = build(TABLE, {"name": "pathological", "clients": 10, "classes_per_client": 2}).label_counts()
    assert ((counts > 0).sum(axis=1) == 2).all()


def test_natural_clients_keep_their_own_samples(build: Build) -> None:
    federation = build(TABLE, "natural")
    assert federation.client_names == tuple(f"client-{number}" for number in range(8))
    owners = federation.samples.natural_client
    assert owners is not None
    for number, name in enumerate(federation.client_names):
        assert set(owners[federation.train.of(number)]) == {name}


def test_an_owner_whose_samples_are_all_held_out_stays_listed(build: Build, tmp_path: Path) -> None:
    """Six owners of one sample: half of each class is the test, and all six are clients."""
    np.savez(tmp_path / "a.npz", features=np.eye(6), labels=[0, 0, 0, 0, 1, 1], client=np.arange(6))
    federation = build({"name": "arrays", "path": str(tmp_path / "a.npz")}, "natural", test_fraction=0.5)
    assert federation.client_names == tuple("012345")
    assert federation.train.counts.tolist() == [0 if number in federation.test else 1 for number in range(6)]
    assert any(note.startswith("3 of 6 clients without samples") for note in federation.notes)


def test_an_official_test_part_is_the_test_part(build: Build, tmp_path: Path) -> None:
    is_test = np.array([False] * 6 + [True] * 2)
    client = np.array(list("aabbccxy"))
    np.savez(tmp_path / "a.npz", features=np.eye(8), labels=[0, 1] * 4, is_test=is_test, client=client)
    federation = build({"name": "arrays", "path": str(tmp_path / "a.npz")}, "natural")
    assert federation.test.tolist() == [6, 7]
    assert federation.client_names == ("a", "b", "c")
    assert any("own test part (2 samples)" in note and "test_fraction is ignored" in note for note in federation.notes)


def test_a_cap_holds_and_is_said(build: Build) -> None:
    federation = build(TABLE, {"name": "iid", "clients": 4}, max_samples_per_client=10, test_fraction=0)
    assert (federation.train.counts + federation.validation.counts == 10).all()
    assert federation.notes[0] == ("4 of 4 clients cut to 10 samples (max_samples_per_client); 360 samples left out")


def test_few_shots_of_each_class_are_drawn(build: Build) -> None:
    """Each client keeps 2 training samples of each class that it has so many of; its validation part stays."""
    whole = build(TABLE, {"name": "iid", "clients": 4}, test_fraction=0)
    few = build(TABLE, {"name": "iid", "clients": 4}, test_fraction=0, max_train_per_class=2)
    targets = whole.samples.targets
    for number in range(4):
        kept, before = few.train.of(number), whole.train.of(number)
        assert np.isin(kept, before).all()
        had = np.bincount(targets[before])
        assert np.bincount(targets[kept], minlength=len(had)).tolist() == np.minimum(had, 2).tolist()
        assert few.validation.of(number).tolist() == whole.validation.of(number).tolist()
    firsts = np.concatenate(
        [whole.train.of(0)[targets[whole.train.of(0)] == label][:2] for label in np.unique(targets)]
    )
    assert sorted(firsts.tolist()) != sorted(few.train.of(0).tolist())  # a draw, not the first in the file
    assert any("more than 2 samples of a class (max_train_per_class)" in note for note in few.notes)


def test_few_shots_need_classes(build: Build, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=np.eye(8), labels=np.linspace(0, 1, 8))
    source = {"name": "arrays", "path": str(tmp_path / "a.npz"), "task": "real"}
    with pytest.raises(DataError, match=r"max_train_per_class counts samples of a class, but the task is 'real'"):
        build(source, {"name": "iid", "clients": 2}, max_train_per_class=1)


def test_empty_and_single_class_clients_are_kept_and_said(build: Build) -> None:
    federation = build(TABLE, {"name": "dirichlet", "clients": 60, "alpha": 0.02})
    sizes = federation.train.counts + federation.validation.counts
    single = ((federation.label_counts() > 0).sum(axis=1) == 1).sum()
    assert federation.num_clients == 60
    assert (sizes == 0).any()
    assert any(note.startswith(f"{(sizes == 0).sum()} of 60 clients without samples") for note in federation.notes)
    assert any(note.startswith(f"{single} of 60 clients with a single class") for note in federation.notes)
    assert any(note.startswith("label sets differ: ") for note in federation.notes)


def test_what_a_partition_leaves_out_is_said(build: Build) -> None:
    federation = build(TABLE, {"name": "sizes", "sizes": [10, 10]})
    assert "the partition 'sizes' leaves out 300 of 320 samples" in federation.notes
    assert (federation.train.counts + federation.validation.counts).tolist() == [10, 10]


@pytest.mark.parametrize(
    ("source", "partition", "text"),
    [
        ({}, {"name": "iid", "clients": 321}, r"more clients than samples: .* asks for 321 clients, but only 320 "),
        ({}, {"name": "dirichlet", "clients": 321, "alpha": 1}, r"more clients than samples: .*80 of 400 are held out"),
        ({}, {"name": "shards", "clients": 200, "shards_per_client": 2}, "200 x 2 shards, but only 320 samples"),
        ({}, {"name": "sizes", "sizes": [200, 121]}, "asks for 321 samples, but only 320 samples are left"),
        (
            {},
            {"name": "pathological", "clients": 5, "classes_per_client": 6},
            "asks for 6 classes a client, but the samples have 5; make classes_per_client at most 5",
        ),
        (
            {},
            {"name": "pathological", "clients": 300, "classes_per_client": 5},
            "'pathological' can't divide these 320 samples: Label: 0 is needed",
        ),
        ({"num_clients": None}, "natural", r"needs to know who owns each sample.*client_column \(csv\)"),
        ({"task": "labels"}, {"name": "dirichlet", "clients": 5, "alpha": 1}, "several labels a sample; use iid"),
        ({"task": "real"}, {"name": "pathological", "clients": 5, "classes_per_client": 1}, "real targets; use iid"),
        ({"task": "real"}, {"name": "shards", "clients": 5}, "real targets; use iid, sizes or natural"),
    ],
)
def test_a_partition_that_does_not_suit_is_refused(
    build: Build, source: dict[str, Any], partition: Any, text: str
) -> None:
    with pytest.raises(DataError, match=text):
        build({**TABLE, **source}, partition)


@pytest.mark.parametrize("task", ["labels", "real"])
@pytest.mark.parametrize("partition", [PARTITIONS[0], PARTITIONS[4], PARTITIONS[5]], ids=lambda p: p["name"])
def test_other_tasks_divide_by_number_or_owner(build: Build, task: str, partition: Any) -> None:
    federation = build({**TABLE, "task": task}, partition)
    targets = federation.samples.targets
    assert targets.dtype == (np.uint8 if task == "labels" else np.float32)
    expected = targets[np.setdiff1d(np.arange(400), federation.test)].sum(axis=0) if task == "labels" else [320]
    np.testing.assert_array_equal(federation.label_counts().sum(axis=0), expected)


def test_a_damaged_cache_is_computed_again(build: Build, cache: Path) -> None:
    partition = {"name": "dirichlet", "clients": 10, "alpha": 0.5}
    expected = build(TABLE, partition).digest()
    (kept,) = (cache / "partitions").iterdir()
    whole = kept.read_bytes()
    flipped = bytearray(whole)
    place = whole.index(b"train_indices.npy") + 400
    flipped[place] ^= 1
    for damaged in (whole[: len(whole) // 2], b"", bytes(flipped)):
        kept.write_bytes(damaged)
        assert build(TABLE, partition).digest() == expected
        assert kept.read_bytes() == whole or len(kept.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_does_no_harm(build: Build, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert build(TABLE, {"name": "iid", "clients": 2}).num_clients == 2


PROGRAM = """
import json, socket, sys
def refuse(*_, **__): raise AssertionError("the network is used")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from fedgraft.data.federation import build_federation
from fedgraft.data.settings import DataSettings
values = {"source": "digits", "partition": {"name": "dirichlet", "clients": 20, "alpha": 0.3}}
federation = build_federation(DataSettings.model_validate_json(json.dumps(values)), 1)
heavy = ("flwr_datasets", "datasets", "pandas", "torch", "sklearn", "PIL", "matplotlib", "rich")
print(federation.digest(), *(name for name in heavy if name in sys.modules))
"""


def test_cold_and_warm_processes_agree_and_the_warm_one_imports_nothing_heavy(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    lines = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        lines.append(done.stdout.split())
    assert "flwr_datasets" in lines[0]
    assert lines[1] == lines[0][:1]
    assert not list(tmp_path.rglob("*.arrow"))


def test_ten_thousand_clients_in_seconds(build: Build) -> None:
    build(TABLE, {"name": "iid", "clients": 2})  # the import of the partitioners is not what is measured
    source = {"name": "synthetic", "num_samples": 50_000, "num_features": 4}
    start = time.perf_counter()
    federation = build(source, {"name": "dirichlet", "clients": 10_000, "alpha": 0.5})
    assert time.perf_counter() - start < 20
    assert federation.num_clients == 10_000
    assert federation.client_names[7] == "client-0007"


@pytest.mark.slow
def test_a_hundred_thousand_clients(build: Build) -> None:
    source = {"name": "synthetic", "num_samples": 1_000_000, "num_features": 4}
    start = time.perf_counter()
    federation = build(source, {"name": "iid", "clients": 100_000})
    assert time.perf_counter() - start < 60
    assert federation.client_names[7] == "client-00007"
    assert federation.train.counts.sum() + federation.validation.counts.sum() == 800_000
