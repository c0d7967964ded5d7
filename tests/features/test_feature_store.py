"""The store: what is written is what is read, and nothing else is ever trusted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from store_workers import NUM_FEATURES, digests, expected, filling, origin

from fedgraft.errors import StoreError
from fedgraft.features.entry import entry_key
from fedgraft.features.rows import RowWriter
from fedgraft.features.store import FeatureStore
from fedgraft.progress import Event, listening

NUM_SAMPLES = 50
KEY = entry_key(origin().backbone_key, "float32", digests(NUM_SAMPLES))


@pytest.fixture
def case(tmp_path: Path) -> SimpleNamespace:
    """A store, what it said, and how often an entry was computed."""
    notes: list[str] = []
    log = tmp_path / "computed"
    store = FeatureStore(tmp_path / "store", note=notes.append)

    def ask(num_samples: int = NUM_SAMPLES, dtype: str = "float32") -> np.ndarray:
        fill = filling(expected(num_samples), log)
        return store.get_or_fill(origin(), dtype, digests(num_samples), fill)

    def num_computed() -> int:
        return len(log.read_text().splitlines()) if log.exists() else 0

    return SimpleNamespace(store=store, notes=notes, ask=ask, num_computed=num_computed, folder=store.root / KEY)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_entry_is_computed_once_and_mapped_read_only(case: SimpleNamespace, dtype: str) -> None:
    assert case.store.get(KEY) is None
    for _ in range(2):
        found = case.ask(dtype=dtype)
        np.testing.assert_array_equal(found, expected(NUM_SAMPLES))
        assert isinstance(found, np.memmap)
        assert found.dtype == dtype
        with pytest.raises(ValueError, match="read-only"):
            found[0, 0] = 1
    assert case.num_computed() == 1
    assert case.notes == []
    # An ordinary array file, for anyone who looks into the store with NumPy alone.
    key = entry_key(origin().backbone_key, dtype, digests(NUM_SAMPLES))
    plain = np.load(case.store.root / key / "features.npy", allow_pickle=False)
    np.testing.assert_array_equal(plain, expected(NUM_SAMPLES))


def test_the_key_depends_on_backbone_dtype_samples_and_their_order() -> None:
    samples = digests(3)
    keys = {
        entry_key("a", "float32", samples),
        entry_key("b", "float32", samples),
        entry_key("a", "float16", samples),
        entry_key("a", "float32", samples[::-1]),
        entry_key("a", "float32", samples[:2]),
    }
    assert len(keys) == 5
    assert entry_key("a", "float32", samples) == entry_key("a", "float32", samples.copy(order="F"))


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x40]))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def flip_a_byte_and_restore_the_time(path: Path) -> None:
    times = path.stat()
    flip_a_byte(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("features.npy", flip_a_byte, "features.npy does not match its checksum"),
    ("features.npy", flip_a_byte_and_restore_the_time, "features.npy does not match its checksum"),
    ("features.npy", truncate, "features.npy does not match its checksum"),
    ("features.npy", lambda path: os.truncate(path, 0), "features.npy does not match its checksum"),
    ("features.npy", Path.unlink, "features.npy is missing"),
    ("entry.json", flip_a_byte, "its sidecar is no JSON"),
    ("entry.json", truncate, "its sidecar is no JSON"),
    ("entry.json", lambda path: path.write_text(path.read_text().replace("tiny", "tinx")), "match its checksum"),
    ("entry.json", Path.unlink, "entry.json is missing"),
]


@pytest.mark.parametrize(("name", "damage", "reason"), DAMAGES)
def test_a_damaged_entry_is_computed_again(
    case: SimpleNamespace, name: str, damage: Callable[[Path], None], reason: str
) -> None:
    case.ask()
    damage(case.folder / name)
    np.testing.assert_array_equal(case.ask(), expected(NUM_SAMPLES))
    assert case.num_computed() == 2
    assert len(case.notes) == 1
    assert f"stored features {KEY[:12]} are damaged: " in case.notes[0]
    assert reason in case.notes[0]
    assert "computed again" in case.notes[0]
    case.ask()
    assert case.num_computed() == 2


def test_notes_reach_whoever_listens_to_progress(case: SimpleNamespace) -> None:
    case.ask()
    truncate(case.folder / "features.npy")
    heard: list[Event] = []
    with listening(heard.append):
        assert FeatureStore(case.store.root).get(KEY) is None
    assert [event["kind"] for event in heard] == ["note"]
    assert "damaged" in heard[0]["text"]


def test_get_alone_drops_a_damaged_entry(case: SimpleNamespace) -> None:
    case.ask()
    truncate(case.folder / "features.npy")
    assert case.store.get(KEY) is None
    assert not case.folder.exists()
    assert len(case.notes) == 1


def test_an_entry_under_another_ones_name_is_not_trusted(case: SimpleNamespace) -> None:
    case.ask()
    case.ask(num_samples=3)
    other = case.store.root / entry_key(origin().backbone_key, "float32", digests(3))
    shutil.rmtree(case.folder)
    shutil.copytree(other, case.folder)
    np.testing.assert_array_equal(case.ask(), expected(NUM_SAMPLES))
    assert f"its sidecar names the entry {other.name[:12]}" in case.notes[0]


def test_an_entry_of_another_schema_is_not_used_and_listed_as_such(case: SimpleNamespace) -> None:
    case.ask()
    sidecar = case.folder / "entry.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "schema": 99}))
    (listed,) = case.store.entries()
    assert listed.entry is None
    assert listed.fault == "it has schema 99, this FedGraft reads 1"
    case.ask()
    assert case.num_computed() == 2
    assert case.notes == [
        f"stored features {KEY[:12]} are not used: it has schema 99, this FedGraft reads 1; they are computed again"
    ]


def test_the_checksum_is_verified_once_a_change_and_not_once_an_opening(
    case: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.ask()
    (case.folder / "verified.json").unlink()
    hashed: list[int] = []
    import hashlib

    original = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *a: (hashed.append(1), original(*a))[1])
    for _ in range(3):
        assert FeatureStore(case.store.root).get(KEY) is not None
    assert len(hashed) == 1
    os.utime(case.folder / "features.npy")
    for _ in range(3):
        assert FeatureStore(case.store.root).get(KEY) is not None
    assert len(hashed) == 2


def test_verify_reads_the_whole_file_again(case: SimpleNamespace) -> None:
    case.ask()
    assert case.store.verify(KEY)
    flip_a_byte(case.folder / "features.npy")
    assert not case.store.verify(KEY)
    assert not case.store.verify(KEY)


def test_a_fault_of_the_computation_leaves_nothing_and_keeps_its_type(case: SimpleNamespace) -> None:
    def fill(rows: RowWriter) -> None:
        rows.allocate(NUM_FEATURES)
        raise OSError("the picture can't be read")  # must not read like a fault of the store

    with pytest.raises(OSError, match="the picture can't be read"):
        case.store.get_or_fill(origin(), "float32", digests(NUM_SAMPLES), fill)
    assert list(case.store.root.iterdir()) == []


def test_rows_that_were_never_written_are_noticed(case: SimpleNamespace) -> None:
    def fill(rows: RowWriter) -> None:
        rows.allocate(NUM_FEATURES)
        rows.write(np.arange(2, NUM_SAMPLES), expected(NUM_SAMPLES)[2:])

    with pytest.raises(ValueError, match="2 of 50 rows were never written"):
        case.store.get_or_fill(origin(), "float32", digests(NUM_SAMPLES), fill)
    assert list(case.store.root.iterdir()) == []


def test_rows_come_in_any_order(case: SimpleNamespace) -> None:
    order = np.random.default_rng(1).permutation(NUM_SAMPLES)

    def fill(rows: RowWriter) -> None:
        rows.allocate(NUM_FEATURES)
        for part in np.array_split(order, 7):
            rows.write(part, expected(NUM_SAMPLES)[part])
        np.testing.assert_array_equal(rows.read(order[:9]), expected(NUM_SAMPLES)[order[:9]])

    found = case.store.get_or_fill(origin(), "float32", digests(NUM_SAMPLES), fill)
    np.testing.assert_array_equal(found, expected(NUM_SAMPLES))


def test_values_too_large_for_float16_are_refused(case: SimpleNamespace) -> None:
    fill = filling(expected(NUM_SAMPLES) * 10_000)
    with pytest.raises(StoreError, match=r"reach 4.99e\+05, float16 holds up to 65504; set `features.dtype: float32`"):
        case.store.get_or_fill(origin(), "float16", digests(NUM_SAMPLES), fill)
    assert list(case.store.root.iterdir()) == []


def test_the_listing_says_what_is_there(case: SimpleNamespace) -> None:
    assert case.store.entries() == []
    case.ask()
    case.ask(num_samples=7, dtype="float16")
    os.utime(case.folder / "entry.json", (1e9, 1e9))
    newer, older = case.store.entries()
    assert older.key == KEY
    assert older.last_used == 1e9
    assert older.entry.origin == origin()
    assert (older.entry.shape, older.entry.dtype) == ((NUM_SAMPLES, NUM_FEATURES), "float32")
    assert (newer.entry.shape, newer.entry.dtype) == ((7, NUM_FEATURES), "float16")
    assert older.num_bytes == sum(path.stat().st_size for path in case.folder.iterdir())
    case.ask()  # using it makes it the last used one
    assert case.store.entries()[0].key == KEY


def test_clear_by_age_by_backbone_and_whole(case: SimpleNamespace) -> None:
    assert case.store.clear().num_entries == 0
    case.ask()
    other = origin("large")
    case.store.get_or_fill(other, "float32", digests(5), filling(expected(5)))
    os.utime(case.folder / "entry.json", (1e9, 1e9))
    assert case.store.clear(older_than_days=1, backbone="large").num_entries == 0
    num_bytes = case.store.entries()[1].num_bytes
    cleared = case.store.clear(older_than_days=1)
    assert (cleared.num_entries, cleared.num_bytes, cleared.num_busy) == (1, num_bytes, 0)
    assert [stored.entry.origin.backbone for stored in case.store.entries()] == ["large"]
    assert case.store.clear(backbone="tiny").num_entries == 0
    assert case.store.clear(backbone="large").num_entries == 1
    assert list(case.store.root.iterdir()) == []


def test_features_in_use_survive_a_clear(case: SimpleNamespace) -> None:
    found = case.ask()
    case.store.clear()
    np.testing.assert_array_equal(found, expected(NUM_SAMPLES))


def test_sharing_names_entries_of_the_same_backbone_and_dtype(case: SimpleNamespace) -> None:
    case.ask()
    case.ask(num_samples=9)
    case.ask(num_samples=3, dtype="float16")
    case.store.get_or_fill(origin("large"), "float32", digests(5), filling(expected(5)))
    shared = list(case.store.sharing(origin().backbone_key, "float32"))
    assert [len(found) for _, found in shared] == [NUM_SAMPLES, 9]
    np.testing.assert_array_equal(shared[1][1], digests(9))
    flip_a_byte(case.folder / "digests.npy")
    assert [len(found) for _, found in case.store.sharing(origin().backbone_key, "float32")] == [9]


def test_a_store_that_is_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="can't") as caught:
        FeatureStore(tmp_path / "store").get_or_fill(origin(), "float32", digests(3), filling(expected(3)))
    assert str(tmp_path / "store") in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", root], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount")
    try:
        reached: list[str] = []

        def fill(rows: RowWriter) -> None:
            rows.allocate(100_000)
            reached.append("computing")

        with pytest.raises(StoreError, match="No space left on device") as caught:
            FeatureStore(root).get_or_fill(origin(), "float32", digests(NUM_SAMPLES), fill)
        assert "can't write 20.0 MB of features" in str(caught.value)
        assert "fedgraft cache clear" in str(caught.value)
        assert "float16" in str(caught.value)
        assert reached == []
        assert list(root.iterdir()) == []
        store = FeatureStore(root)
        found = store.get_or_fill(origin(), "float32", digests(NUM_SAMPLES), filling(expected(NUM_SAMPLES)))
        np.testing.assert_array_equal(found, expected(NUM_SAMPLES))
        del found
        # No room for the sidecar's memo: a store that can't be written is still of use.
        with pytest.raises(OSError, match="No space"):
            (root / "filler").write_bytes(bytes(2**20))
        (root / KEY / "verified.json").write_bytes(b"")
        assert store.get(KEY) is not None
    finally:
        subprocess.run(["umount", "-l", root], check=True)
