"""Backbone weights from the wire: kept under their digest, believed only after checking it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fedgraft.errors import ModelError, StoreError
from fedgraft.models import kept
from fedgraft.models.weights import weights_digest

WEIGHTS = {
    "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "a.running_mean": np.array([0.5, -0.0], dtype=np.float32),
    "a.num_batches_tracked": np.array(7, dtype=np.int64),  # no dimension
    "half": np.array([1.5], dtype=np.float16),
    "mask": np.array([True, False]),
}


def by_hand(arrays: dict[str, np.ndarray]) -> str:
    """Return sha256 over sorted names, dtypes, shapes and bytes, as the docs describe it."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(name.encode() + b"\0" + str(array.dtype).encode() + b"\0" + str(array.shape).encode() + b"\0")
        digest.update(array.tobytes(order="C"))
    return digest.hexdigest()


def test_what_is_kept_comes_back_to_the_bit(own_caches: Path) -> None:
    digest = by_hand(WEIGHTS)
    assert kept.digests() == []
    kept.keep(WEIGHTS, digest)
    assert kept.digests() == [digest]
    loaded = kept.load(digest)
    assert set(loaded) == set(WEIGHTS)
    for name, value in WEIGHTS.items():
        assert (loaded[name].dtype, loaded[name].shape) == (value.dtype, value.shape)
        assert loaded[name].tobytes() == value.tobytes()
    assert (own_caches / "fedgraft" / "weights" / f"{digest}.safetensors").exists()
    kept.keep(WEIGHTS, digest)  # twice is once
    assert kept.digests() == [digest]


def test_another_digest_is_refused_and_nothing_is_kept(own_caches: Path) -> None:
    announced = by_hand(WEIGHTS)
    forged = WEIGHTS | {"half": np.array([1.25], dtype=np.float16)}
    with pytest.raises(ModelError) as caught:
        kept.keep(forged, announced)
    came = by_hand(forged)[:12]
    assert str(caught.value) == f"backbone weights with digest {came} came, {announced[:12]} was announced; refused"
    with pytest.raises(ModelError, match="was announced; refused"):
        kept.keep({}, announced)
    assert not (own_caches / "fedgraft").exists()
    assert kept.digests() == []


@pytest.mark.parametrize("damage", ["truncated", "one bit", "no header", "empty"])
def test_damaged_weights_are_removed(own_caches: Path, damage: str) -> None:
    digest = weights_digest(WEIGHTS)
    kept.keep(WEIGHTS, digest)
    path = own_caches / "fedgraft" / "weights" / f"{digest}.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "one bit":
        content[-1] ^= 1
    path.write_bytes({"truncated": content[:-3], "one bit": content, "no header": b"x" * 50, "empty": b""}[damage])
    with pytest.raises(ModelError, match=r"were damaged and have been removed; run again to get them anew"):
        kept.load(digest)
    assert kept.digests() == []
    assert not path.exists()


def test_a_folder_that_can_not_be_made_is_named(own_caches: Path) -> None:
    own_caches.mkdir(parents=True)
    (own_caches / "fedgraft").write_text("in the way")
    with pytest.raises(StoreError, match=r"can't write .*weights/.*free space or choose another folder"):
        kept.keep(WEIGHTS, weights_digest(WEIGHTS))


def test_a_file_under_a_wrong_name_is_not_believed(own_caches: Path) -> None:
    digest = weights_digest(WEIGHTS)
    kept.keep(WEIGHTS, digest)
    folder = own_caches / "fedgraft" / "weights"
    (folder / f"{digest}.safetensors").rename(folder / f"{'0' * 64}.safetensors")
    with pytest.raises(ModelError, match="damaged"):
        kept.load("0" * 64)
