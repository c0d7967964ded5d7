"""What other processes do to a store in the tests; importable by spawned processes, needs NumPy only."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import StoreError
from fedgraft.features.entry import Origin
from fedgraft.features.rows import RowWriter
from fedgraft.features.store import FeatureStore, Fill

NUM_FEATURES = 8


def origin(backbone: str = "tiny", cut: str = "penultimate") -> Origin:
    return Origin(
        backbone_key=f"{backbone}/{cut}",
        backbone=backbone,
        cut=cut,
        weights_digest="00" * 32,
        preprocessing="32 px",
        source="made up",
    )


def digests(num_samples: int, first: int = 0) -> NDArray[np.uint8]:
    """Return digests that hold the sample's number, so that a row's expected value can be read off it."""
    numbers = np.zeros((num_samples, 2), dtype=np.uint64)
    numbers[:, 0] = np.arange(first, first + num_samples)
    return numbers.view(np.uint8)


def expected(num_samples: int, first: int = 0) -> NDArray[np.float32]:
    """Row i is i, i + 1/8, i + 2/8, ...: exact in both dtypes for small i."""
    columns = np.arange(NUM_FEATURES, dtype=np.float32) / 8
    return np.arange(first, first + num_samples, dtype=np.float32)[:, None] + columns


def filling(values: NDArray[np.float32], log: Path | None = None, seconds: float = 0) -> Fill:
    """Return a computation that appends one line to `log` each time it runs."""

    def fill(rows: RowWriter) -> None:
        if log is not None:
            with log.open("a") as file:
                file.write(f"{os.getpid()}\n")
        rows.allocate(values.shape[1])
        rows.write(np.arange(len(values)), values)
        time.sleep(seconds)

    return fill


def ask(root: Path, log: Path, num_samples: int) -> None:
    """Ask for an entry as a run would, and fail unless the right numbers come."""
    store = FeatureStore(root, note=lambda line: None)
    fill = filling(expected(num_samples), log, seconds=0.3)
    found = store.get_or_fill(origin(), "float32", digests(num_samples), fill)
    np.testing.assert_array_equal(found, expected(num_samples))


def die_while_writing(root: Path, num_samples: int) -> None:
    """Write half of the rows of an entry and be killed."""

    def fill(rows: RowWriter) -> None:
        rows.allocate(NUM_FEATURES)
        half = num_samples // 2
        rows.write(np.arange(half), expected(half))
        os.kill(os.getpid(), signal.SIGKILL)

    FeatureStore(root).get_or_fill(origin(), "float32", digests(num_samples), fill)


def write_until_told(root: Path, num_samples: int, is_writing: Path, may_end: Path) -> None:
    """Hold an entry in the state of being written until the file `may_end` appears."""

    def fill(rows: RowWriter) -> None:
        filling(expected(num_samples))(rows)
        is_writing.touch()
        while not may_end.exists():
            time.sleep(0.01)

    FeatureStore(root).get_or_fill(origin(), "float32", digests(num_samples), fill)


def write_with_little_space(root: Path, num_samples: int, max_bytes: int, told: Path) -> None:
    """Write an entry where no file may be longer than `max_bytes`; leave the error's text in `told`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    try:
        fill = filling(expected(num_samples))
        FeatureStore(root).get_or_fill(origin(), "float32", digests(num_samples), fill)
    except StoreError as error:
        told.write_text(str(error))
