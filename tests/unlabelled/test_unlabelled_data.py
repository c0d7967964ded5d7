"""Training samples without labels: which they are, where they come from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_scenarios import small

import fedgraft
from fedgraft.data.federation import Federation, build_federation
from fedgraft.data.ragged import merged, ragged
from fedgraft.data.settings import CsvSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError, ScenarioError
from fedgraft.tensor_files import read_tensors


def federation(**changes: Any) -> Federation:
    scenario = small(**changes)
    return build_federation(scenario.data, scenario.seed)


def test_lists_are_merged_in_ascending_order() -> None:
    found = merged(ragged(np.array([1, 5, 4]), [2, 0, 1]), ragged(np.array([3, 9, 2]), [1, 1, 1]))
    assert [found.of(number).tolist() for number in range(3)] == [[1, 3, 5], [9], [2, 4]]


@pytest.mark.parametrize("fraction", [0.05, 0.5, 0.8])
def test_a_fraction_of_each_client_s_training_samples_loses_its_labels(fraction: float) -> None:
    whole, part = federation(), federation(**{"data.unlabelled": fraction})
    for number, count in enumerate(whole.train.counts.tolist()):
        without = part.unlabelled.of(number)
        assert len(without) == int(np.floor(fraction * count + 0.5))
        assert not np.intersect1d(without, part.train.of(number)).size
        np.testing.assert_array_equal(part.all_train.of(number), whole.train.of(number))
    for same in ("validation", "test"):
        np.testing.assert_array_equal(
            getattr(getattr(part, same), "indices", part.test), getattr(getattr(whole, same), "indices", whole.test)
        )
    assert part.label_counts().sum() == part.train.counts.sum() + part.validation.counts.sum()
    assert any("are not used (data.unlabelled)" in note for note in part.notes)


def test_the_clients_that_are_named_have_no_labels() -> None:
    names = ["client-0002", "client-0005"]
    whole, part = federation(), federation(**{"data.unlabelled": names})
    for number, name in enumerate(part.client_names):
        kept, lost = (part.unlabelled, part.train) if name in names else (part.train, part.unlabelled)
        np.testing.assert_array_equal(kept.of(number), whole.train.of(number))
        assert len(lost.of(number)) == 0


def test_pooled_data_keep_samples_without_labels_apart() -> None:
    part = federation(**{"data.unlabelled": 0.5})
    pooled = part.pooled()
    np.testing.assert_array_equal(pooled.unlabelled.of(0), np.sort(part.unlabelled.indices))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "leaves none of the 205 training samples a label"),
        (["client-2"], "no client 'client-2'"),
    ],
)
def test_what_leaves_nobody_a_label_or_names_nobody_is_refused(value: Any, text: str) -> None:
    with pytest.raises(DataError) as caught:
        federation(**{"data.unlabelled": value})
    assert text in str(caught.value)


def test_other_values_are_refused(tmp_path: Path) -> None:
    for value, text in {
        "0": "expected a fraction above 0, at most 1, or clients' names",
        "[]": "expected a fraction above 0, at most 1, or clients' names",
        "true": "expected a fraction above 0, at most 1, or clients' names",
    }.items():
        path = tmp_path / "bad.yaml"
        path.write_text(f"extends: quickstart\ndata: {{unlabelled: {value}}}\n")
        with pytest.raises(ScenarioError) as caught:
            fedgraft.run(path, out=tmp_path / "run")
        assert text in str(caught.value), value


def arrays(path: Path, labels: Any, **more: Any) -> Path:
    rows = len(labels)
    np.savez(path, features=np.random.default_rng(3).normal(size=(rows, 3)), labels=labels, **more)
    return path


def of_arrays(path: Path, **changes: Any) -> Federation:
    return federation(**{"data.source": {"name": "arrays", "path": str(path)}, **changes})


def test_arrays_say_minus_one_for_no_label(tmp_path: Path) -> None:
    """Of 40 samples 12 have no label; they are nobody's validation or test, and all fall to clients."""
    labels = np.arange(40) % 2
    labels[5:17] = -1
    path = arrays(tmp_path / "a.npz", labels)
    found = of_arrays(path, **{"data.partition": {"name": "iid", "clients": 4}})
    assert sorted(found.unlabelled.indices.tolist()) == list(range(5, 17))
    held = np.concatenate([found.train.indices, found.validation.indices, found.test])
    assert sorted(held.tolist()) == [*range(5), *range(17, 40)]
    assert found.samples.label_names == ("0", "1")
    again = of_arrays(path, **{"data.partition": {"name": "iid", "clients": 4}})  # from the cache
    np.testing.assert_array_equal(again.unlabelled.indices, found.unlabelled.indices)


def test_texts_of_arrays_are_empty_for_no_label(tmp_path: Path) -> None:
    found = of_arrays(
        arrays(tmp_path / "a.npz", np.array(["cat", "", "dog", "cat", "dog", ""] * 4)),
        **{"data.partition": {"name": "iid", "clients": 2}},
    )
    assert found.samples.label_names == ("cat", "dog")
    assert len(found.unlabelled.indices) == 8


@pytest.mark.parametrize(
    ("labels", "changes", "text"),
    [
        (np.full(10, -1), {}, "none of the 10 samples has a label; give some of them one"),
        (np.array([-2, 0, 1, 0]), {}, "expected 0 to 99999, or -1 for no label"),
        (np.array([-1, 0, 1, 0] * 9), {}, "divides by class, but 9 of 36 samples have no label; use iid, sizes or"),
        (
            np.array([-1, 0, 1, 0] * 9),
            {"data.partition": {"name": "iid", "clients": 2}, "data.tasks": 2},
            "data.tasks needs the label of every sample, and 9 have none",
        ),
    ],
)
def test_what_needs_labels_is_refused(tmp_path: Path, labels: Any, changes: Any, text: str) -> None:
    with pytest.raises(DataError) as caught:
        of_arrays(arrays(tmp_path / "a.npz", labels), **changes)
    assert text in str(caught.value)


def test_an_official_test_part_without_labels_is_nobody_s(tmp_path: Path) -> None:
    labels, is_test = np.arange(30) % 2, np.arange(30) >= 20
    labels[25:] = -1
    found = of_arrays(
        arrays(tmp_path / "a.npz", labels, is_test=is_test), **{"data.partition": {"name": "iid", "clients": 2}}
    )
    assert found.test.tolist() == list(range(20, 25))
    assert not len(found.unlabelled.indices)


def test_an_empty_cell_of_a_table_is_a_sample_without_a_label(tmp_path: Path) -> None:
    lines = ["path,label"]
    for number, label in enumerate(["cat", "dog", "", "cat"]):
        Image.new("L", (3, 2), 10 * number).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{label}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    samples = load_samples(CsvSettings(path=str(tmp_path / "table.csv")), seed=1)
    assert samples.label_names == ("cat", "dog")
    assert samples.targets.tolist() == [0, 1, -1, 0]
    assert samples.is_labelled.tolist() == [True, True, False, True]


def test_what_needs_no_labels_takes_all_training_samples(tmp_path: Path) -> None:
    """Clusters and their axes are those of all samples; only their agreement with classes is of samples with labels."""
    changes: dict[str, Any] = {"shards": 2}
    some = fedgraft.cluster(small(**changes, **{"data.unlabelled": 0.8}), clusters=4, labelled=2, out=tmp_path / "some")
    every = fedgraft.cluster(small(**changes), clusters=4, labelled=2, out=tmp_path / "every")
    np.testing.assert_array_equal(some.centres, every.centres)
    np.testing.assert_array_equal(some.axes, every.axes)
    assert [one.size for one in some.clusters] == [one.size for one in every.clusters]
    assert some.adjusted_rand != every.adjusted_rand


@pytest.mark.parametrize("align", ["standardise", "coral"])
def test_features_are_aligned_by_all_training_samples(align: str, tmp_path: Path) -> None:
    some = fedgraft.run(small(align=align, **{"data.unlabelled": 0.8, "server.rounds": 1}), out=tmp_path / "some")
    every = fedgraft.run(small(align=align, **{"server.rounds": 1}), out=tmp_path / "every")
    ours, theirs = (read_tensors(run.directory / "alignment.safetensors") for run in (some, every))
    assert ours[0].keys() == theirs[0].keys()
    for name, value in ours[0].items():
        np.testing.assert_array_equal(value, theirs[0][name])
