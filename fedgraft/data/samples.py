"""Samples: inputs, targets and what the data say about each; the same for every source."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.cache import AnyArray, digest_of
from fedgraft.data.settings import Task
from fedgraft.errors import DataError, listed
from fedgraft.kinds import USUAL, Kind

Indices = NDArray[np.int64]
Image = NDArray[np.uint8]
Names = NDArray[np.str_]
Targets = NDArray[np.int64] | NDArray[np.uint8] | NDArray[np.float32]
"""`(N,)` int64 classes, `(N, L)` uint8 zeros and ones, or `(N,)` or `(N, T)` float32 numbers.

Of classes `NO_LABEL` stands for a sample whose class nobody said."""
NO_LABEL = -1

Images = NDArray[np.uint8] | list[Image]
"""`(n, H, W, 3)` if all have one size, otherwise a list of `(H_i, W_i, 3)`."""
Sounds = list[NDArray[np.float32]]
"""`(num_values_i,)` each: mono, from -1 to 1, at the source's one sample rate."""


class Inputs(Protocol):
    """Where the inputs of samples are read; a source gives one, with the reader of its kind."""

    @property
    def kind(self) -> Kind:
        """Say what the inputs are."""

    def digests(self) -> NDArray[np.uint8]:
        """Return a digest of each input's content, `(num_samples, 16)`."""


class ImageInputs(Inputs, Protocol):
    """Inputs of the kind `images`."""

    def images(self, indices: Indices) -> Images:
        """Read the images at `indices`, and no others."""


class FeatureInputs(Inputs, Protocol):
    """Inputs of the kind `features`."""

    def features(self) -> AnyArray:
        """Return all feature vectors, `(num_samples, num_features)`, float32 or float16."""


class TextInputs(Inputs, Protocol):
    """Inputs of the kind `texts`."""

    def texts(self, indices: Indices) -> list[str]:
        """Read the texts at `indices`, and no others."""


class SoundInputs(Inputs, Protocol):
    """Inputs of the kind `sounds`."""

    @property
    def sample_rate(self) -> int:
        """Values a second, of every sound."""

    def sounds(self, indices: Indices) -> Sounds:
        """Read the sounds at `indices`, and no others."""


@dataclass(frozen=True, eq=False)
class Samples:
    """All samples of a source, in a fixed order.

    `is_test` marks an official test part. `notes` are plain lines about what was left out or looks odd.
    `feature_names` are those of ready features, where the source knows them.
    """

    inputs: Inputs
    targets: Targets
    task: Task
    label_names: tuple[str, ...]
    sample_ids: Names
    natural_client: Names | None = None
    group: Names | None = None
    is_test: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()

    @property
    def num_samples(self) -> int:
        """Return the number of samples."""
        return len(self.targets)

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Return which samples have a label, or real targets, `(num_samples,)`."""
        if self.task != "classes":
            return np.ones(self.num_samples, dtype=np.bool_)
        labelled: NDArray[np.bool_] = self.targets != NO_LABEL
        return labelled

    @property
    def num_classes(self) -> int:
        """Return the number of classes, labels or real targets: the outputs of a head."""
        return len(self.label_names)

    @property
    def kind(self) -> Kind:
        """Say what the inputs are."""
        return self.inputs.kind

    def images(self, indices: Sequence[int] | Indices) -> Images:
        """Read images, RGB: `(n, H, W, 3)` uint8 if all have one size, otherwise a list of `(H_i, W_i, 3)`."""
        return cast(ImageInputs, self._of("images")).images(np.asarray(indices, dtype=np.int64))

    def texts(self, indices: Sequence[int] | Indices) -> list[str]:
        """Read texts."""
        return cast(TextInputs, self._of("texts")).texts(np.asarray(indices, dtype=np.int64))

    def sounds(self, indices: Sequence[int] | Indices) -> Sounds:
        """Read sounds, mono: a list of `(num_values_i,)` float32 from -1 to 1."""
        return cast(SoundInputs, self._of("sounds")).sounds(np.asarray(indices, dtype=np.int64))

    def sounds_at_rate(self, indices: Sequence[int] | Indices) -> tuple[Sounds, int]:
        """Read sounds, with the values a second that all of them have."""
        return self.sounds(indices), cast(SoundInputs, self.inputs).sample_rate

    def features(self) -> AnyArray:
        """Return the source's own feature vectors, `(num_samples, num_features)`, float32 or float16."""
        return cast(FeatureInputs, self._of("features")).features()

    def _of(self, kind: Kind) -> Inputs:
        """Return the inputs if they are of a kind.

        Raises:
            DataError: they are of another.
        """
        if self.kind != kind:
            fitting = f"the backbone '{USUAL[self.kind]}'" if self.kind in USUAL else f"a backbone of {self.kind}"
            raise DataError(f"this source gives {self.kind}, not {kind}; use {fitting}")
        return self.inputs

    def sample_digests(self) -> NDArray[np.uint8]:
        """Return a digest of the content of each input, `(num_samples, 16)`; equal inputs have equal ones."""
        return self.inputs.digests()

    @functools.cached_property
    def _digest(self) -> str:
        optional = (self.natural_client, self.group)
        return digest_of(
            self.kind,
            self.task,
            self.sample_digests().tobytes(),
            self.targets.dtype.str,
            str(self.targets.shape),
            np.ascontiguousarray(self.targets).tobytes(),
            "\0".join(self.label_names),
            "\0".join(self.sample_ids.tolist()),
            *("" if column is None else "\0".join(column.tolist()) + "\0" for column in optional),
            b"" if self.is_test is None else self.is_test.tobytes(),
            *(("\0".join(self.feature_names),) if self.feature_names else ()),
        )

    def digest(self) -> str:
        """Return the digest of the whole: inputs, ids, targets, names and columns (sha256, hex)."""
        return self._digest


def content_digests(rows: AnyArray | Sequence[AnyArray]) -> NDArray[np.uint8]:
    """Return a 16-byte digest of the content (dtype, shape, bytes) of each row, `(num_rows, 16)`."""
    digests = bytearray()
    for row in rows:
        state = hashlib.blake2b(f"{row.dtype.str}{row.shape}".encode(), digest_size=16)
        state.update(np.ascontiguousarray(row).data)
        digests += state.digest()
    return np.frombuffer(bytes(digests), dtype=np.uint8).reshape(-1, 16)


def numbered(count: int) -> Names:
    """Return `count` numbers from 0 as texts of equal width; ids for sources that have none."""
    width = len(str(max(count - 1, 0)))
    powers = 10 ** np.arange(width - 1, -1, -1, dtype=np.int64)
    code_points = (np.arange(count, dtype=np.int64)[:, None] // powers) % 10 + ord("0")
    return np.ascontiguousarray(code_points.astype(np.uint32)).view(f"<U{width}")[:, 0]


def check_samples(samples: Samples, source: str, labels_declared: bool = False) -> Samples:
    """Return the samples if a head can be trained on them.

    Args:
        samples: what was read.
        source: where, for texts.
        labels_declared: whether the settings name the labels; then one site of several may have a single class.

    Raises:
        DataError: there are none, one class only, ids that repeat, targets that are not finite, or client names
            of several lines.
    """
    if samples.num_samples == 0:
        raise DataError(f"{source}: no samples")
    if samples.task == "real" and not np.isfinite(samples.targets).all():
        bad = np.flatnonzero(~np.isfinite(samples.targets.reshape(samples.num_samples, -1)).all(axis=1))
        raise DataError(
            f"{source}: {len(bad)} of {samples.num_samples} targets are NaN or infinite "
            f"({listed(samples.sample_ids[bad].tolist(), 5)}); leave these samples out"
        )
    if samples.task == "classes":
        present = np.unique(samples.targets[samples.is_labelled])
        if len(present) == 0:
            raise DataError(f"{source}: none of the {samples.num_samples} samples has a label; give some of them one")
        if len(present) < 2 and not labels_declared:
            only, labelled = samples.label_names[int(present[0])], int(samples.is_labelled.sum())
            all_of = f"all {labelled} samples"
            if labelled < samples.num_samples:
                all_of = f"all samples that have a label, {labelled} of {samples.num_samples},"
            raise DataError(
                f"{source}: {all_of} have the one class '{only}'; "
                + "; ".join(("a classifier needs at least two classes", *samples.notes))
            )
    if samples.natural_client is not None:
        broken = [name for name in np.unique(samples.natural_client).tolist() if "\n" in name]
        if broken:
            raise DataError(f"{source}: a client's name must be one line; came {listed(map(repr, broken), 5)}")
    ids, counts = np.unique(samples.sample_ids, return_counts=True)
    if len(ids) < samples.num_samples:
        repeated = ids[counts > 1].tolist()
        raise DataError(
            f"{source}: sample ids must be unique, and {len(repeated)} of {len(ids)} stand more than once: "
            f"{listed(repeated, 5)}"
        )
    return samples
