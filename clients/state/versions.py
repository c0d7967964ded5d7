"""Which version the state of each shard's clients is: the server names the one to start from, and what it becomes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.state.files import ShardFiles, fingerprint
from clients.state.tables import Kind, Layout, StateTable

PASSED_ON = "passed-on"
"""The folder, beside the files that checkpoints name, of those that processes leave for each other."""


class ClientStates:
    """The state of a host's clients in one run; version 0 is empty: zeros.

    Args:
        layout: the clients.
        kinds: the named states, and of which kind each is.
        shards: `(num_clients,)` shard numbers, ascending.
        names: the clients' names.
        folder: where files lie; None: there are none.
    """

    def __init__(
        self,
        layout: Layout,
        kinds: Mapping[str, Kind],
        shards: NDArray[np.int64],
        names: Sequence[str],
        folder: Path | None,
    ) -> None:
        self.tables = {name: StateTable(layout, kind) for name, kind in kinds.items()}
        self._layout, self._shards, self._names, self._folder = layout, shards, names, folder
        self._versions: dict[int, int] = {}
        self._files_of: dict[tuple[int, Path], ShardFiles] = {}

    def start_from(self, shard: int, version: int) -> bool:
        """Have a shard's state be that of a version, from memory or its file; False if neither has it.

        What is later is dropped: who asks for this version has gone back.

        Raises:
            StoreError: the file can't be used here; see `ShardFiles.load`.
        """
        kept = self._files(shard)
        if self._versions.get(shard, 0) != version and not self._load(shard, version, kept):
            return False
        self._versions[shard] = version
        for files in kept:
            files.drop_after(version)
        return True

    def is_at(self, shard: int, version: int) -> bool:
        """Return whether a shard's state in memory is that of a version."""
        return self._versions.get(shard, 0) == version

    @contextlib.contextmanager
    def becoming(self, shard: int, version: int) -> Iterator[None]:
        """Let the block change a shard's state into the next version; if it fails, no version is left in memory."""
        self._versions[shard] = -1
        yield
        self._versions[shard] = version

    def keep(self, shard: int) -> None:
        """Write the shard's version to its file, unless it has one.

        Raises:
            StoreError: the disk is full, or the folder can't be written.
        """
        self._save(shard, self._files(shard)[:1])

    def pass_on(self, shard: int) -> None:
        """Write the shard's version to a file for the process that goes on from it, beside those of checkpoints.

        Raises:
            StoreError: the disk is full, or the folder can't be written.
        """
        self._save(shard, self._files(shard)[1:])

    def _save(self, shard: int, kept: Sequence[ShardFiles]) -> None:
        version = self._versions.get(shard, 0)
        for files in kept:
            if version > 0 and version not in files.versions():
                files.save(version, self._parts(shard))

    def _load(self, shard: int, version: int, kept: Sequence[ShardFiles]) -> bool:
        found = None
        for files in kept if version > 0 else ():
            found = files.load(version) if found is None else found
        if version > 0 and found is None:
            return False
        for name, part in self._parts(shard).items():
            part[...] = 0 if found is None else found[name]
        return True

    def _parts(self, shard: int) -> dict[str, NDArray[np.float32]]:
        """Return views of the shard's rows of every state."""
        first, last = self._range(shard)
        return {
            f"{name}/{kind}": part
            for name, table in self.tables.items()
            for kind, part in table.part(first, last).items()
        }

    def _files(self, shard: int) -> list[ShardFiles]:
        """Return the files of a shard: those that checkpoints name, and those that are passed on."""
        if self._folder is None:
            return []
        found = []
        for folder in (self._folder, self._folder / PASSED_ON):
            if (shard, folder) not in self._files_of:
                clients = fingerprint(self._layout, self._names, *self._range(shard))
                self._files_of[shard, folder] = ShardFiles(folder, shard, clients)
            found.append(self._files_of[shard, folder])
        return found

    def _range(self, shard: int) -> tuple[int, int]:
        first, last = np.searchsorted(self._shards, [shard, shard + 1]).tolist()
        return first, last
