"""One .npz file or folder of .npy files: images or features, labels, and optional columns."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data import cache
from fedgraft.data.labels import classes, ordered
from fedgraft.data.samples import NO_LABEL, Indices, Names, Samples, Targets, content_digests, numbered
from fedgraft.data.settings import ArraysSettings
from fedgraft.data.sources.array_files import ArrayFiles, array_files
from fedgraft.errors import DataError, listed, nearest

_KNOWN = ("images", "features", "labels", "label_names", "client", "group", "ids", "is_test", "feature_names")
_MAX_CLASSES = 100_000  # without label_names, a larger number is taken for a slip (an id in place of a class)
_ROWS_A_CHUNK = 4096


@dataclass(eq=False)
class _Arrays:
    """Inputs of an .npz, read whole at the first use, or of a folder, mapped."""

    file: ArrayFiles
    kind: Literal["images", "features"]
    content: NDArray[np.uint8]
    _read: cache.AnyArray | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def _whole(self) -> cache.AnyArray:
        with self._lock:  # several threads may ask first
            if self._read is None:
                self._read = _checked_inputs(self.file, self.kind)
            return self._read

    def images(self, indices: Indices) -> NDArray[np.uint8]:
        """Return `(n, H, W, 3)`."""
        chosen = self._whole()[indices]
        return np.repeat(chosen, 3, axis=-1) if chosen.shape[-1] == 1 else chosen

    def features(self) -> cache.AnyArray:
        """Return `(N, D)`; float32, or as the mapped file has them."""
        return self._whole()

    def digests(self) -> NDArray[np.uint8]:
        """Return the digest of each row."""
        return self.content


def _checked_inputs(file: ArrayFiles, kind: str) -> cache.AnyArray:
    """Return images `(N, H, W, 1 or 3)` uint8, or finite features `(N, D)`: float32, or mapped as they are."""
    values = file.read(kind)
    came = f"{file.path}: '{kind}' is {values.dtype} of shape {values.shape}"
    if kind == "images":
        if values.dtype != np.uint8:
            raise DataError(f"{came}; images must be uint8 of 0 to 255 (multiply values of 0 to 1 by 255 first)")
        if values.ndim == 3:
            values = values[..., None]
        if values.ndim != 4 or values.shape[-1] not in (1, 3) or 0 in values.shape[1:]:
            raise DataError(f"{came}; images must be (N, H, W) or (N, H, W, 1 or 3), channels last")
        return values
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiu":
        raise DataError(f"{came}; features must be numbers of shape (N, D)")
    if not file.is_mapped:
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    if values.dtype not in (np.float16, np.float32) or not values.flags.c_contiguous:
        order = "" if values.flags.c_contiguous else " in Fortran's order"
        raise DataError(
            f"{came}{order}; features of a folder are mapped as they are, so they must be float32 or float16 in C's "
            "order: numpy.save(path, numpy.ascontiguousarray(features, dtype=numpy.float32))"
        )
    return values


def _check_finite(file: ArrayFiles, kind: str, values: cache.AnyArray) -> None:
    """Refuse features that are not finite; by chunks, since they may be larger than memory."""
    if kind == "images":
        return
    chunks = (values[first : first + _ROWS_A_CHUNK] for first in range(0, len(values), _ROWS_A_CHUNK))
    finite = [np.isfinite(chunk).all(axis=1) for chunk in chunks]
    bad = np.flatnonzero(~np.concatenate(finite)) if finite else np.zeros(0, dtype=np.int64)
    if len(bad):
        raise DataError(
            f"{file.path}: {len(bad)} of {len(values)} rows of 'features' have NaN, infinite or too large values "
            f"(rows {listed((str(row) for row in bad), 5)}); mend them or leave them out"
        )


def _digests(file: ArrayFiles, kind: str) -> dict[str, cache.AnyArray]:
    values = _checked_inputs(file, kind)
    _check_finite(file, kind, values)
    return {"digests": content_digests(values)}


def load(settings: ArraysSettings, seed: int) -> Samples:
    """Return the samples of an .npz file or a folder of .npy files, in their order. `seed` is not used.

    Raises:
        DataError: the file is missing, damaged or pickled, or an array's type, shape or values make no sense.
    """
    file = array_files(Path(settings.path).expanduser())
    members = file.names()
    kinds = [name for name in ("images", "features") if name in members]
    if len(kinds) != 1 or "labels" not in members:
        missing = nearest("labels", members) if "labels" not in members else ""
        raise DataError(
            f"{file.path} must hold 'labels' and either 'images' or 'features'; "
            f"it has {listed(members) or 'none'}{missing}"
        )
    kind: Literal["images", "features"] = "images" if kinds == ["images"] else "features"
    kept = cache.remembered(
        "sources",
        cache.digest_of("arrays-1", str(file.path.resolve()), kind),
        file.stamp(kind),
        lambda: _digests(file, kind),
    )
    inputs = _Arrays(file, kind, kept["digests"])
    count = len(inputs.content)
    targets, names = _targets(settings, file, members, count)
    ids = _column(file, members, "ids", count)
    unknown = [name for name in members if name not in _KNOWN]
    known = f"arrays that are not used: {listed(unknown)}; known are {listed(_KNOWN)}"
    return Samples(
        inputs=inputs,
        targets=targets,
        task=settings.task,
        label_names=names,
        sample_ids=numbered(count) if ids is None else ids,
        natural_client=_column(file, members, "client", count),
        group=_column(file, members, "group", count),
        is_test=_is_test(file, members, count),
        notes=(known,) if unknown else (),
        feature_names=_feature_names(file, members, inputs) if kind == "features" else (),
    )


def _feature_names(file: ArrayFiles, members: Sequence[str], inputs: _Arrays) -> tuple[str, ...]:
    if "feature_names" not in members:
        return ()
    names, width = file.read("feature_names"), inputs.features().shape[1]
    if names.dtype.kind != "U" or names.shape != (width,) or len(np.unique(names)) < width:
        raise DataError(
            f"{file.path}: 'feature_names' is {names.dtype} of shape {names.shape}; expected {width} different texts"
        )
    return tuple(names.tolist())


def _sized(file: ArrayFiles, name: str, count: int) -> cache.AnyArray:
    values = file.read(name)
    if values.ndim == 0 or len(values) != count:
        raise DataError(f"{file.path}: '{name}' has the shape {values.shape}, but there are {count} samples")
    return values


def _column(file: ArrayFiles, members: Sequence[str], name: str, count: int) -> Names | None:
    """Return a column of numbers or texts as texts."""
    if name not in members:
        return None
    values = _sized(file, name, count)
    if values.ndim != 1 or values.dtype.kind not in "iuU":
        raise DataError(
            f"{file.path}: '{name}' is {values.dtype} of shape {values.shape}; expected {count} integers or texts"
        )
    return values.astype(np.str_)


def _is_test(file: ArrayFiles, members: Sequence[str], count: int) -> NDArray[np.bool_] | None:
    if "is_test" not in members:
        return None
    values = _sized(file, "is_test", count)
    if values.ndim != 1 or values.dtype != np.bool_:
        raise DataError(f"{file.path}: 'is_test' is {values.dtype} of shape {values.shape}; expected {count} booleans")
    return values


def _targets(
    settings: ArraysSettings, file: ArrayFiles, members: Sequence[str], count: int
) -> tuple[Targets, tuple[str, ...]]:
    """Return the targets, and the names of the head's outputs."""
    labels = _sized(file, "labels", count)
    names = tuple(file.read("label_names").astype(np.str_).tolist()) if "label_names" in members else None
    if settings.task == "classes":
        return _classes(file, labels, names)
    came = f"{file.path}: 'labels' are {labels.dtype} of shape {labels.shape}"
    if settings.task == "labels":
        if labels.ndim != 2 or labels.dtype.kind not in "biu" or not np.isin(labels, (0, 1)).all():
            raise DataError(f"{came}; task: labels needs zeros and ones of shape (N, number of labels)")
        return labels.astype(np.uint8), _named(file, names, labels.shape[1], "label")
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "fiu":
        raise DataError(f"{came}; task: real needs numbers of shape (N,) or (N, T)")
    width = 1 if labels.ndim == 1 else labels.shape[1]
    with np.errstate(over="ignore"):
        return labels.astype(np.float32), _named(file, names, width, "target")


def _classes(
    file: ArrayFiles, labels: cache.AnyArray, names: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return class numbers: integers are taken as they are, texts by their order or by `label_names`."""
    came = f"{file.path}: 'labels' are {labels.dtype} of shape {labels.shape}"
    if labels.ndim != 1:
        raise DataError(f"{came}; classes need one integer a sample (set task: labels for several labels a sample)")
    if labels.dtype.kind == "U":
        texts = labels.tolist()
        chosen = ordered(filter(None, texts)) if names is None else names
        unknown = sorted(set(texts) - {*chosen, ""})
        if unknown:
            raise DataError(f"{came}; not in label_names: {listed(unknown, 5)}{nearest(unknown[0], chosen)}")
        return classes(texts, chosen, unlabelled=""), chosen
    if labels.dtype.kind not in "iu":
        raise DataError(f"{came}, not integers; convert them, or set task: real for numeric targets")
    limit = _MAX_CLASSES if names is None else len(names)
    bad = np.flatnonzero((labels.astype(np.float64) < NO_LABEL) | (labels >= limit))
    if len(bad):
        why = f"label_names has {limit} names" if names is not None else f"there may be {limit} classes at most"
        raise DataError(
            f"{file.path}: {len(bad)} of {len(labels)} labels are out of range, such as {labels[bad[0]]} in row "
            f"{bad[0]}; expected 0 to {limit - 1}, or -1 for no label, as {why}"
        )
    if names is None:
        names = tuple(str(number) for number in range(int(labels.max(initial=0)) + 1))
    return labels.astype(np.int64), names


def _named(file: ArrayFiles, names: tuple[str, ...] | None, width: int, word: str) -> tuple[str, ...]:
    if names is not None and len(names) != width:
        raise DataError(f"{file.path}: label_names has {len(names)} names, but 'labels' has {width} columns")
    return names or tuple(f"{word}-{number}" for number in range(width))
