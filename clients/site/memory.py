"""What a site's policy remembers, on disk: a run's rounds and alignment, and which samples statistics were given of."""

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

READY_FEATURES = "ready-features"
"""The name of features that no backbone gave."""

_SAFE = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass
class RunRounds:
    """The rounds of a run: for each, digests of the requests to train that were answered."""

    exchanges: dict[int, list[str]] = field(default_factory=dict)


@dataclass
class GivenStatistics:
    """The sets of samples that statistics of one backbone were given of.

    Attributes:
        sets: each sorted, uint64.
        alignments: for each the digest of what features were aligned by; empty: they were as the backbone gives them.
    """

    sets: list[NDArray[np.uint64]] = field(default_factory=list)
    alignments: list[str] = field(default_factory=list)

    def add(self, samples: NDArray[np.uint64], alignment: str) -> None:
        """Remember one more set."""
        self.sets.append(samples)
        self.alignments.append(alignment)


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

    def alignment(self, run_id: str, weights_digest: str, digest: str) -> str:
        """Return the digest of what a run's features were aligned by at first; of the first, it is remembered.

        Args:
            run_id: the run.
            weights_digest: of the backbone.
            digest: of what came now.

        Raises:
            StoreError: the memory can't be read or written.
        """
        path = self._path("alignments", run_id, ".json")
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            known = {str(weights): str(first) for weights, first in found.items()}
        except (OSError, ValueError, AttributeError) as error:
            raise _damaged(path) from error
        if weights_digest not in known:
            known[weights_digest] = digest
            write_text(path, json.dumps(known))
        return known[weights_digest]

    def num_rounds(self) -> int:
        """Return the rounds of all runs."""
        return sum(len(self._read_rounds(path)) for path in sorted((self._folder / "runs").glob("*.json")))

    @contextlib.contextmanager
    def statistics(self, weights_digest: str) -> Iterator[GivenStatistics]:
        """Yield what was given of a backbone's features; sets that are added are written when the block ends.

        Raises:
            StoreError: the memory can't be read or written.
        """
        path = self._path("statistics", weights_digest or READY_FEATURES, ".npz")
        given = _read_sets(path)
        before = len(given.sets)
        yield given
        if len(given.sets) > before:
            stream = io.BytesIO()
            both = enumerate(zip(given.sets, given.alignments, strict=True))
            named = {f"set-{number:06d}" + (digest and f"-{digest}"): samples for number, (samples, digest) in both}
            np.savez_compressed(stream, **named)  # type: ignore[arg-type]
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


def _read_sets(path: Path) -> GivenStatistics:
    try:
        if not path.exists():
            return GivenStatistics()
        with np.load(path, allow_pickle=False) as found:
            names = sorted(found.files)
            sets = [found[name] for name in names]
    except Exception as error:  # zipfile, zlib and NumPy each raise their own
        raise _damaged(path) from error
    if any(samples.dtype != np.uint64 or samples.ndim != 1 for samples in sets):
        raise _damaged(path)
    return GivenStatistics(sets, [name.removeprefix("set-")[7:] for name in names])  # set-NUMBER, or set-NUMBER-DIGEST


def _damaged(path: Path) -> StoreError:
    return StoreError(
        f"what the policy remembers, {path}, can't be read; put it back from a backup (nothing is answered that "
        "would need it)"
    )
