"""Recordings as everything after them takes them: one channel of float32 from -1 to 1, at one rate."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import DataError

Sound = NDArray[np.float32]
"""`(num_samples,)`, from -1 to 1."""

SUFFIXES = frozenset({".aif", ".aiff", ".flac", ".ogg", ".wav"})
SILENCE = 1e-3
"""A recording that never goes beyond this is reported as silent; -60 dB of full scale."""
FULL_SCALE = 0.999
SAMPLE_RATES = (1000, 384_000)
"""Hz; a header that says other rates is damaged, and resampling by it would take any amount of memory."""
CLIPPED_SAMPLES = 3
"""So many samples in a row at full scale are taken for clipping: a peak that is only loud has one or two."""

_READER = b"sound-1"  # part of each sample's digest: stored features are void when the rules below change
_FAULT = "!"


@dataclass(frozen=True)
class Recording:
    """What a file holds.

    Attributes:
        values: `(num_samples, num_channels)` float32.
        sample_rate: Hz.
    """

    values: NDArray[np.float32]
    sample_rate: int


@dataclass(frozen=True)
class Facts:
    """What there is to say of a recording.

    Attributes:
        fault: why it can't be used; empty if it can.
        sample_rate: Hz.
        num_channels: of the file.
        is_silent: it never goes beyond `SILENCE`.
        is_clipped: `CLIPPED_SAMPLES` in a row are at full scale.
    """

    fault: str = ""
    sample_rate: int = 0
    num_channels: int = 1
    is_silent: bool = False
    is_clipped: bool = False

    def text(self) -> str:
        """Return it as a text that `from_text` reads."""
        if self.fault:
            return _FAULT + self.fault
        return f"{self.sample_rate} {self.num_channels} {self.is_silent:d} {self.is_clipped:d}"

    @classmethod
    def from_text(cls, text: str) -> Facts:
        """Return the facts that `text` wrote."""
        if text.startswith(_FAULT):
            return cls(text.removeprefix(_FAULT))
        rate, channels, silent, clipped = map(int, text.split())
        return cls("", rate, channels, bool(silent), bool(clipped))


EMPTY = "without samples"
NOT_FINITE = "with NaN or infinite samples"


def read(path: Path) -> Recording:
    """Return what a sound file holds.

    Raises:
        DataError: the package that reads sound files is missing.
        OSError, ValueError, RuntimeError: the file is damaged or no sound.
    """
    values, rate = soundfile().read(path, dtype="float32", always_2d=True)
    return Recording(values, int(rate))


def soundfile() -> Any:
    """Return the package that reads sound files.

    Raises:
        DataError: it isn't installed.
    """
    try:
        import soundfile as package
    except (ImportError, OSError) as error:  # OSError: its C library is missing
        raise DataError(
            f'sound files need the package soundfile ({error}); pip install "fedgraft[audio]", or give one .npz file'
        ) from error
    return package


def as_recording(values: NDArray[Any], sample_rate: int) -> Recording:
    """Return numbers of an array file, `(n,)` or `(n, num_channels)`: integers are taken from their full scale."""
    values = values[:, None] if values.ndim == 1 else values
    if values.dtype.kind == "i":
        return Recording(values.astype(np.float32) / np.float32(-float(np.iinfo(values.dtype).min)), sample_rate)
    with np.errstate(over="ignore"):
        return Recording(values.astype(np.float32), sample_rate)


def mono(recording: Recording) -> Sound:
    """Return the mean of the channels."""
    values = recording.values
    return np.ascontiguousarray(values[:, 0]) if values.shape[1] == 1 else values.mean(axis=1, dtype=np.float32)


def resampled(sound: Sound, sample_rate: int, wanted: int) -> Sound:
    """Return a sound at another rate, Hz: what the new rate can't hold is filtered out first."""
    if sample_rate == wanted or len(sound) == 0:
        return sound
    from scipy.signal import resample_poly

    common = math.gcd(sample_rate, wanted)
    return np.asarray(resample_poly(sound, wanted // common, sample_rate // common), dtype=np.float32)


def looked_at(recording: Recording) -> tuple[bytes, Facts]:
    """Return the digest of a recording's content (16 bytes), and what there is to say of it."""
    values, rate = recording.values, recording.sample_rate
    if values.size == 0:
        return bytes(16), Facts(EMPTY)
    if not np.isfinite(values).all():
        return bytes(16), Facts(NOT_FINITE)
    if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
        return bytes(16), Facts(f"said to have {rate:,} samples a second, expected {SAMPLE_RATES[0]:,} to 384,000")
    state = hashlib.blake2b(f"{rate}".encode(), digest_size=16, person=_READER)
    state.update(mono(recording).data)
    loud = np.abs(values)
    return state.digest(), Facts(
        sample_rate=rate,
        num_channels=values.shape[1],
        is_silent=bool(loud.max() <= SILENCE),
        is_clipped=bool(loud.max() >= FULL_SCALE) and _has_run(loud >= FULL_SCALE),
    )


def heard(path: Path, sample_rate: int) -> Sound:
    """Return a file's sound at a rate, Hz.

    Raises:
        DataError: it is empty or has values that are not finite, or the package that reads sound files is missing.
        OSError, ValueError, RuntimeError: the file is damaged or no sound.
    """
    recording = read(path)
    _, facts = looked_at(recording)
    if facts.fault:
        raise DataError(f"a recording {facts.fault}")
    return resampled(mono(recording), recording.sample_rate, sample_rate)


def inspect(path: Path) -> tuple[bytes, str]:
    """Return the digest of a file's content (16 bytes), and its facts as a text.

    Raises:
        DataError: the package that reads sound files is missing.
    """
    try:
        digest, facts = looked_at(read(path))
    except (OSError, ValueError, RuntimeError, MemoryError) as error:  # soundfile's own errors are RuntimeErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return bytes(16), Facts(f"unreadable ({reason})").text()
    return digest, facts.text()


def at_rate(digests: NDArray[np.uint8], rates: NDArray[np.int64], wanted: int) -> NDArray[np.uint8]:
    """Return digests `(n, 16)` of what becomes of recordings at a rate, Hz; those that have it keep theirs."""
    result = digests.copy()
    for number in np.flatnonzero(rates != wanted).tolist():
        state = hashlib.blake2b(f"at {wanted}".encode(), digest_size=16, person=_READER)
        state.update(digests[number].tobytes())
        result[number] = np.frombuffer(state.digest(), dtype=np.uint8)
    return result


def _has_run(marked: NDArray[np.bool_]) -> bool:
    """Return whether `CLIPPED_SAMPLES` in a row are marked in a channel of `(num_samples, num_channels)`."""
    return bool(len(marked) >= CLIPPED_SAMPLES and _rows_all(marked).any())


def _rows_all(marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    last = len(marked) - CLIPPED_SAMPLES + 1
    every = marked[:last].copy()
    for offset in range(1, CLIPPED_SAMPLES):
        every &= marked[offset : offset + last]
    return every
