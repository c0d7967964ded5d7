"""Checkpoints: what was saved comes back, and nothing that is damaged is believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedgraft.errors import StoreError
from fedgraft.progress import listening
from fedgraft.tensor_files import read_tensors, save_tensors
from server.checkpoint import Checkpoint, Counters, last_checkpoint, save_checkpoint


def checkpoint(round_number: int) -> Checkpoint:
    random = np.random.default_rng(round_number)
    head = {"weight": random.standard_normal((3, 4)).astype(np.float32), "bias": np.zeros(3, dtype=np.float32)}
    state = {"m_t:dict:layers.0/weight": random.standard_normal((4, 3)).T, "rounds": np.array(round_number)}
    counters = Counters(10 * round_number, 7, {"train": 0.1 * round_number})
    return Checkpoint(round_number, head, state, counters, {"metrics.jsonl": 100 * round_number})


def saved(folder: Path, *rounds: int) -> Path:
    for round_number in rounds:
        save_checkpoint(folder, checkpoint(round_number))
    return folder


def same(one: Checkpoint | None, other: Checkpoint) -> None:
    assert one is not None
    assert (one.round_number, one.counters, one.sizes) == (other.round_number, other.counters, other.sizes)
    for mine, theirs in ((one.head, other.head), (one.state, other.state)):
        assert set(mine) == set(theirs)
        for name in mine:
            assert mine[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(mine[name], theirs[name])


def test_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Scalars, transposed arrays and names with slashes and colons too."""
    same(last_checkpoint(saved(tmp_path, 3)), checkpoint(3))


def test_only_the_last_two_are_kept(tmp_path: Path) -> None:
    saved(tmp_path, 0, 5, 10, 15)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["round-000010.safetensors", "round-000015.safetensors"]
    same(last_checkpoint(tmp_path), checkpoint(15))


def test_none_at_all(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "checkpoints") is None


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["cut", "empty", "last bit", "header", "counter", "digest"])
def test_damaged_last_gives_the_one_before(tmp_path: Path, damage: str) -> None:
    last = saved(tmp_path, 5, 10) / "round-000010.safetensors"
    content = last.read_bytes()
    if damage == "cut":
        last.write_bytes(content[:-1])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "last bit":
        flip(last, -1)
    elif damage == "header":
        flip(last, 9)
    elif damage == "counter":
        assert content.count(b'bytes_down\\": 100') == 1
        last.write_bytes(content.replace(b'bytes_down\\": 100', b'bytes_down\\": 101'))
    else:
        arrays, facts = read_tensors(last)
        del facts["digest"]
        save_tensors(last, arrays, facts)
    notes: list[str] = []
    with listening(lambda event: notes.append(event["text"])):
        same(last_checkpoint(tmp_path), checkpoint(5))
    assert notes == ["checkpoint round-000010.safetensors is damaged; the one before it is taken"]


def test_temporary_file_of_a_killed_process_is_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 5)
    (tmp_path / ".round-000010.safetensors.abc.tmp").write_bytes(b"half of i")
    same(last_checkpoint(tmp_path), checkpoint(5))


def test_other_schema_is_refused(tmp_path: Path) -> None:
    last = saved(tmp_path, 5, 10) / "round-000010.safetensors"
    arrays, facts = read_tensors(last)
    save_tensors(last, arrays, {**facts, "schema": 99})
    with pytest.raises(StoreError, match="has schema 99, this release knows 1; resume with the release that wrote it"):
        last_checkpoint(tmp_path)
