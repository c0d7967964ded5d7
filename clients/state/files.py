"""Client state in files: one a shard and version, whole or not at all.

Files are of shards, since shards are fixed in the scenario and hosts are not: a run may go on with other hosts. They
are written before the server's checkpoint that names their version, so at each moment there may be one version more
than the server knows of. With two checkpoints, of which the last may be damaged, three versions are enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clients.state.tables import Layout
from fedgraft.errors import StoreError
from fedgraft.files import cache_directory
from fedgraft.progress import report
from fedgraft.submission import RunFacts
from fedgraft.tensor_files import read_tensors, save_tensors, tensors_digest
from fedgraft.wire.protocol import SCHEMA

KEPT = 3
"""Versions that are kept of each shard."""


def state_folder(run: RunFacts) -> Path:
    """Return where a run's client state lies: in the run directory, or in this machine's cache where none is named."""
    if run.directory:
        return Path(run.directory) / "client-state"
    return cache_directory() / "client-state" / run.run_id


def fingerprint(layout: Layout, names: Sequence[str], first: int, last: int) -> str:
    """Return a digest of what the rows of the clients from `first` up to but without `last` mean."""
    digest = hashlib.sha256("\n".join(names[first:last]).encode())
    for values in (layout.sizes[first:last], layout.dual[first:last]):
        digest.update(values.tobytes())
    digest.update(str((layout.num_outputs, sorted(layout.shapes.items()))).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class ShardFiles:
    """The files of one shard.

    Attributes:
        folder: of the run's client state.
        shard: the shard's number.
        fingerprint: of its clients.
    """

    folder: Path
    shard: int
    fingerprint: str

    def path(self, version: int) -> Path:
        """Return the file of a version."""
        return self.folder / f"shard-{self.shard:05d}-version-{version:08d}.safetensors"

    def versions(self) -> list[int]:
        """Return the versions that have a file, ascending."""
        found = self.folder.glob(f"shard-{self.shard:05d}-version-*.safetensors")
        return sorted(int(path.stem.rpartition("-")[2]) for path in found)

    def save(self, version: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a version, then remove all but the last `KEPT`.

        Raises:
            StoreError: the disk is full, or the folder can't be written.
        """
        facts = {"schema": SCHEMA, "shard": self.shard, "version": version, "clients": self.fingerprint}
        save_tensors(self.path(version), arrays, {**facts, "digest": tensors_digest(arrays, facts)})
        for old in self.versions()[:-KEPT]:
            self.path(old).unlink(missing_ok=True)
        for left_by_a_kill in self.folder.glob(f".shard-{self.shard:05d}-*.tmp"):
            left_by_a_kill.unlink(missing_ok=True)

    def load(self, version: int) -> dict[str, NDArray[Any]] | None:
        """Return the arrays of a version; None if it has no file, or a damaged one, which is said.

        Raises:
            StoreError: another release wrote it, or it is of other clients.
        """
        path = self.path(version)
        if not path.exists():
            return None
        try:
            arrays, facts = read_tensors(path)
        except StoreError:
            arrays, facts = {}, {"schema": SCHEMA}
        if facts.get("schema") != SCHEMA:
            raise StoreError(
                f"client state {path} has schema {facts.get('schema')}, this release knows {SCHEMA}; "
                "resume with the release that wrote it, or start a new run"
            )
        if facts.pop("digest", None) != tensors_digest(arrays, facts):
            report("note", text=f"client state {path.name} is damaged")
            return None
        if (facts["shard"], facts["version"], facts["clients"]) != (self.shard, version, self.fingerprint):
            raise StoreError(
                f"client state {path} is of other clients than shard {self.shard} has now: has the scenario or its "
                "data changed? put them back, or start a new run"
            )
        return arrays

    def drop_after(self, version: int) -> None:
        """Remove the files of all later versions: the run has gone back."""
        for later in self.versions():
            if later > version:
                self.path(later).unlink(missing_ok=True)
