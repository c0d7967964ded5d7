"""Several processes at one store: computed once, killed writers leave nothing, and nobody is disturbed."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
from store_workers import (
    NUM_FEATURES,
    ask,
    die_while_writing,
    digests,
    expected,
    filling,
    origin,
    write_until_told,
    write_with_little_space,
)

from fedgraft.features.entry import entry_key
from fedgraft.features.store import FeatureStore

SPAWN = multiprocessing.get_context("spawn")
NUM_SAMPLES = 2000


def start(function: object, *args: object) -> multiprocessing.process.BaseProcess:
    process = SPAWN.Process(target=function, args=args)  # type: ignore[arg-type]
    process.start()
    return process


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


def test_processes_that_ask_at_once_compute_once(tmp_path: Path) -> None:
    root, log = tmp_path / "store", tmp_path / "computed"
    processes = [start(ask, root, log, NUM_SAMPLES) for _ in range(4)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert len(log.read_text().splitlines()) == 1
    assert len(list(root.iterdir())) == 1  # the entry: neither locks nor temporary files


def test_processes_that_meet_a_damaged_entry_compute_it_once(tmp_path: Path) -> None:
    root, log = tmp_path / "store", tmp_path / "computed"
    FeatureStore(root).get_or_fill(origin(), "float32", digests(NUM_SAMPLES), filling(expected(NUM_SAMPLES)))
    (entry,) = FeatureStore(root).entries()
    with (root / entry.key / "features.npy").open("r+b") as file:
        file.truncate(1000)
    processes = [start(ask, root, log, NUM_SAMPLES) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    assert len(log.read_text().splitlines()) == 1
    assert len(list(root.iterdir())) == 1


def test_a_killed_writer_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    root = tmp_path / "store"
    process = start(die_while_writing, root, NUM_SAMPLES)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    left = {path.name.rsplit(".", 1)[1] for path in root.iterdir()}
    assert left == {"tmp", "lock"}  # otherwise this test shows nothing
    store = FeatureStore(root)
    assert store.entries() == []
    assert store.get(entry_key(origin().backbone_key, "float32", digests(NUM_SAMPLES))) is None
    # Writing any other entry tidies up; so does writing the same one.
    store.get_or_fill(origin(), "float32", digests(3), filling(expected(3)))
    assert len(list(root.iterdir())) == 1
    found = store.get_or_fill(origin(), "float32", digests(NUM_SAMPLES), filling(expected(NUM_SAMPLES)))
    np.testing.assert_array_equal(found, expected(NUM_SAMPLES))


def test_the_same_entry_is_written_over_a_killed_writers_rests(tmp_path: Path) -> None:
    root = tmp_path / "store"
    start(die_while_writing, root, NUM_SAMPLES).join(60)
    FeatureStore(root).get_or_fill(origin(), "float32", digests(NUM_SAMPLES), filling(expected(NUM_SAMPLES)))
    assert len(list(root.iterdir())) == 1


def test_clear_leaves_alone_what_is_being_written(tmp_path: Path) -> None:
    root, is_writing, may_end = tmp_path / "store", tmp_path / "is_writing", tmp_path / "may_end"
    store = FeatureStore(root)
    store.get_or_fill(origin(), "float32", digests(3), filling(expected(3)))
    process = start(write_until_told, root, NUM_SAMPLES, is_writing, may_end)
    wait_for(is_writing)
    assert store.clear().num_entries == 1
    may_end.touch()
    process.join(60)
    assert process.exitcode == 0
    found = store.get(entry_key(origin().backbone_key, "float32", digests(NUM_SAMPLES)))
    assert found is not None
    np.testing.assert_array_equal(found, expected(NUM_SAMPLES))


def test_whoever_waits_for_another_process_is_told(tmp_path: Path) -> None:
    root, is_writing, may_end = tmp_path / "store", tmp_path / "is_writing", tmp_path / "may_end"
    process = start(write_until_told, root, NUM_SAMPLES, is_writing, may_end)
    wait_for(is_writing)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        may_end.touch()

    found = FeatureStore(root, note=note).get_or_fill(
        origin(), "float32", digests(NUM_SAMPLES), filling(np.zeros((NUM_SAMPLES, NUM_FEATURES), np.float32))
    )
    process.join(60)
    np.testing.assert_array_equal(found, expected(NUM_SAMPLES))  # the other's, not our zeros
    assert notes == ["another process computes the same features; waiting for it"]


def test_a_file_that_may_not_grow_is_an_error_with_advice(tmp_path: Path) -> None:
    root, told = tmp_path / "store", tmp_path / "told"
    # Once at the features (64 kB), once at the digests (32 kB against 20 kB of features in half precision).
    process = start(write_with_little_space, root, NUM_SAMPLES, 40_000, told)
    process.join(60)
    assert process.exitcode == 0
    text = told.read_text()
    assert "can't write 0.1 MB of features to" in text
    assert "File too large" in text
    assert "fedgraft cache clear" in text
    assert list(root.iterdir()) == []
