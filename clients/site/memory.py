"""What a site's policy remembers, on disk: rounds of each run, and which samples statistics were given of."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import StoreError
from fedgraft.files import write_bytes, write_text

_SAFE = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass
class RunRounds:
    """The rounds of a run: for each, digests of the requests to train that were answered."""

    exchanges: dict[int, list[str]] = field(default_factory=dict)


@dataclass
class GivenStatistics:
    """The sets of samples that statistics of one backbone were given of; each sorted, uint64."""

    sets: list[NDArray[np.uint64]] = field(default_factory=list)

    def add(self, samples: NDArray[np.uint64]) -> None:
        """Remember one more set."""
        self.sets.append(samples)


class PolicyMemory:
    """Reads and writes what is remembered; what can't be read is a fault, not an empty memory.

    Args:
        folder: where it lies; made when something is first remembered.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def run(self, run_id: str) -> Iterator[RunRounds]:
        """Yield a run's rounds; changes are written when the block ends without an error.

        Raises:
            StoreError: the memory can't be read or written.
        """
        path = self._path("runs", run_id, ".json")
        rounds = RunRounds(self._read_rounds(path))
        before = json.dumps(rounds.exchanges)
        yield rounds
        if json.dumps(rounds.exchanges) != before:
            write_text(path, json.dumps({str(number): digests for number, digests in rounds.exchanges.items()}))

    def num_rounds(self) -> int:
        """Return the rounds of all runs."""
        return sum(len(self._read_rounds(path)) for path in sorted((self._folder / "runs").glob("*.json")))

    @contextlib.contextmanager
    def statistics(self, weights_digest: str) -> Iterator[GivenStatistics]:
        """Yield what was given of a backbone's features; sets that are added are written when the block ends.

        Raises:
            StoreError: the memory can't be read or written.
        """
        path = self._path("statistics", weights_digest, ".npz")
        given = GivenStatistics(_read_sets(path))
        before = len(given.sets)
        yield given
        if len(given.sets) > before:
            stream = io.BytesIO()
            np.savez_compressed(stream, **{f"set-{number:06d}": samples for number, samples in enumerate(given.sets)})  # type: ignore[arg-type]
            write_bytes(path, stream.getvalue())

    def _path(self, kind: str, name: str, suffix: str) -> Path:
        if not _SAFE.fullmatch(name):
            raise StoreError(f"came '{name[:80]}' as a name to remember; expected letters, digits and hyphens")
        return self._folder / kind / f"{name}{suffix}"

    def _read_rounds(self, path: Path) -> dict[int, list[str]]:
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return {int(number): [str(digest) for digest in digests] for number, digests in found.items()}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise _damaged(path) from error


def _read_sets(path: Path) -> list[NDArray[np.uint64]]:
    try:
        if not path.exists():
            return []
        with np.load(path, allow_pickle=False) as found:
            sets = [found[name] for name in sorted(found.files)]
    except Exception as error:  # zipfile, zlib and NumPy each raise their own
        raise _damaged(path) from error
    if any(samples.dtype != np.uint64 or samples.ndim != 1 for samples in sets):
        raise _damaged(path)
    return sets


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"what the policy remembers, {path}, can't be read; put it back from a backup (nothing is answered that "
        "would need it)"
    )
