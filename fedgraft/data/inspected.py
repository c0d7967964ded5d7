"""What is known of the files of a source: each is looked at once, and again when its size or time of change differ.

Files that could not be read are looked at each time: rights, memory or a library may have changed, and the file not.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedgraft.data import cache


@dataclass(frozen=True)
class FileState:
    """One file as the file system describes it: name (relative to the source), bytes, time of change."""

    name: str
    size: int
    mtime_ns: int


def inspected(
    root: Path, files: Sequence[FileState], key: str, look: Callable[[Path], tuple[bytes, str]]
) -> tuple[NDArray[np.uint8], list[str]]:
    """Return each file's digest, `(num_files, 16)`, and what else there is to say of it, in a text.

    Args:
        root: what names are relative to.
        files: as the file system describes them now.
        key: under which what is known is kept in the cache.
        look: returns digest and text of one file; several threads call it.
    """
    known = _known(cache.read("sources", key))
    missing = [number for number, file in enumerate(files) if file not in known]
    # Files are decoded outside Python's lock. Warnings (odd EXIF, many pixels) do not make a file unreadable;
    # they are silenced here, around the threads, as the filters belong to the whole process.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")
        fresh = pool.map(lambda number: look(root / files[number].name), missing)
        found = dict(zip(missing, fresh, strict=True))
    results = [found[number] if number in found else known[file] for number, file in enumerate(files)]
    digests = np.frombuffer(b"".join(digest for digest, _ in results), dtype=np.uint8).reshape(-1, 16)
    texts = [text for _, text in results]
    if missing:
        cache.write(
            "sources",
            key,
            {
                "names": packed([file.name for file in files]),
                "faults": packed(texts),
                "states": np.array([(file.size, file.mtime_ns) for file in files], dtype=np.int64),
                "digests": digests,
            },
        )
    return digests, texts


def _known(kept: dict[str, cache.AnyArray] | None) -> dict[FileState, tuple[bytes, str]]:
    if kept is None:
        return {}
    rows = zip(unpacked(kept["names"]), kept["states"].tolist(), kept["digests"], unpacked(kept["faults"]), strict=True)
    return {FileState(name, *state): (digest.tobytes(), text) for name, state, digest, text in rows if digest.any()}


def packed(texts: Sequence[str]) -> NDArray[np.uint8]:
    """Return texts as bytes with a zero between: names of unequal length, whatever their encoding."""
    return np.frombuffer("\0".join(texts).encode(errors="surrogateescape"), dtype=np.uint8)


def unpacked(packed: cache.AnyArray) -> list[str]:
    """Return the texts that `packed` made bytes of."""
    return packed.tobytes().decode(errors="surrogateescape").split("\0")
