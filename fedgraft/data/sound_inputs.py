"""Recordings as inputs of a source: files, or one array of all end to end; only those that are asked for are read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.notes import counted
from fedgraft.data.samples import Indices
from fedgraft.data.sounds import (
    CLIPPED_SAMPLES,
    EMPTY,
    NOT_FINITE,
    Facts,
    Sound,
    as_recording,
    at_rate,
    mono,
    read,
    resampled,
)
from fedgraft.data.sources.array_files import ArrayFiles
from fedgraft.errors import DataError


@dataclass(frozen=True, eq=False)
class FileSounds:
    """Inputs that lie in sound files."""

    root: Path
    names: tuple[str, ...]
    content: NDArray[np.uint8]
    sample_rate: int
    kind: Literal["sounds"] = "sounds"

    def sounds(self, indices: Indices) -> list[Sound]:
        """Return the recordings at `indices`, each `(num_samples,)` float32 at `sample_rate`."""
        return [self._sound(self.root / self.names[index]) for index in indices.tolist()]

    def _sound(self, path: Path) -> Sound:
        try:
            recording = read(path)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise DataError(
                f"{path} could be read before and can't be now ({error}); put it back or run again without it"
            ) from error
        return resampled(mono(recording), recording.sample_rate, self.sample_rate)

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of each recording."""
        return self.content


@dataclass(eq=False)
class ArraySounds:
    """Inputs that lie in one array, end to end: recording `k` is `array[begins[k]:ends[k]]`; read at the first use."""

    file: ArrayFiles
    name: str
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    rates: NDArray[np.int64]
    content: NDArray[np.uint8]
    sample_rate: int
    kind: Literal["sounds"] = "sounds"
    _read: NDArray[np.generic] | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def sounds(self, indices: Indices) -> list[Sound]:
        """Return the recordings at `indices`, each `(num_samples,)` float32 at `sample_rate`."""
        with self._lock:  # several threads may ask first
            if self._read is None:
                self._read = self.file.read(self.name)
        return [self._sound(self._read, index) for index in indices.tolist()]

    def _sound(self, values: NDArray[np.generic], index: int) -> Sound:
        recording = as_recording(values[self.begins[index] : self.ends[index]], int(self.rates[index]))
        return resampled(mono(recording), recording.sample_rate, self.sample_rate)

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of each recording."""
        return self.content


@dataclass(frozen=True)
class Looked:
    """What was found out about all recordings of a source.

    Attributes:
        kept: which can be used, `(num_recordings,)`.
        content: digests of what becomes of those at `sample_rate`, `(num_kept, 16)`.
        rates: of those, Hz, `(num_kept,)`.
        sample_rate: what all are brought to, Hz.
        notes: a line each about what was left out, what was changed, and what looks odd.
    """

    kept: NDArray[np.bool_]
    content: NDArray[np.uint8]
    rates: NDArray[np.int64]
    sample_rate: int
    notes: tuple[str, ...]


def looked(
    names: Sequence[str], digests: NDArray[np.uint8], facts: Sequence[Facts], sample_rate: int | None, source: str
) -> Looked:
    """Return which recordings are used, and at what rate.

    Args:
        names: of all recordings.
        digests: of their content, `(num_recordings, 16)`.
        facts: about each.
        sample_rate: what all are to be brought to, Hz; None: the rate that most have, the highest of several.
        source: where they come from, for errors.

    Raises:
        DataError: not one can be used.
    """
    kept = np.array([not each.fault for each in facts], dtype=np.bool_)
    if not kept.any():
        first = next(iter(zip(names, facts, strict=True)), None)
        why = "" if first is None else f" (first: {first[0]}: {first[1].fault})"
        raise DataError(f"{source}: none of the {len(facts)} recordings can be used{why}; mend them or give others")
    rates = np.array([each.sample_rate for each in facts], dtype=np.int64)[kept]
    if sample_rate is None:
        found, counts = np.unique(rates, return_counts=True)
        sample_rate = int(found[counts == counts.max()].max())
    return Looked(
        kept=kept,
        content=at_rate(digests[kept], rates, sample_rate),
        rates=rates,
        sample_rate=sample_rate,
        notes=tuple(_notes(names, facts, sample_rate)),
    )


def _notes(names: Sequence[str], facts: Sequence[Facts], sample_rate: int) -> list[str]:
    def which(fault: str) -> list[str]:
        return [name for name, each in zip(names, facts, strict=True) if each.fault == fault]

    unreadable = [
        f"{name}: {each.fault}"
        for name, each in zip(names, facts, strict=True)
        if each.fault not in ("", EMPTY, NOT_FINITE)
    ]
    good = [(name, each) for name, each in zip(names, facts, strict=True) if not each.fault]
    others = [name for name, each in good if each.sample_rate != sample_rate]
    rates = ", ".join(str(rate) for rate in sorted({each.sample_rate for _, each in good} - {sample_rate}))
    several = [name for name, each in good if each.num_channels > 1]
    resampling = f"resampled to {sample_rate} Hz (from {rates} Hz)"
    clipped = f"clipped ({CLIPPED_SAMPLES} samples or more in a row at full scale)"
    return [
        *counted(unreadable, "recording left out", "recordings left out"),
        *counted(which(EMPTY), f"recording {EMPTY} left out", f"recordings {EMPTY} left out"),
        *counted(which(NOT_FINITE), f"recording {NOT_FINITE} left out", f"recordings {NOT_FINITE} left out"),
        *counted(others, f"recording {resampling}", f"recordings {resampling}"),
        *counted(several, "recording of several channels mixed to one", "recordings of several channels mixed to one"),
        *counted(
            [name for name, each in good if each.is_silent],
            "recording is silent (below -60 dB)",
            "recordings are silent (below -60 dB)",
        ),
        *counted(
            [name for name, each in good if each.is_clipped], f"recording is {clipped}", f"recordings are {clipped}"
        ),
    ]
