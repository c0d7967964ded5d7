"""Recordings: a folder with one sub-folder of sound files a class, or one .npz file of all of them end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedgraft.data import cache
from fedgraft.data.class_folders import FileKind, class_folders
from fedgraft.data.inspected import inspected, packed, unpacked
from fedgraft.data.labels import classes, label_names
from fedgraft.data.samples import Names, Samples, numbered
from fedgraft.data.settings import AudioSettings
from fedgraft.data.sound_inputs import ArraySounds, FileSounds, looked
from fedgraft.data.sounds import SUFFIXES, Facts, as_recording, inspect, looked_at, soundfile
from fedgraft.data.sources.array_files import Archive
from fedgraft.errors import DataError, listed, nearest

_RECORDINGS = FileKind(
    one="recording",
    several="recordings",
    suffixes=SUFFIXES,
    single="one file with all recordings must be an .npz",
    elsewhere="give one .npz file",
)
_OPTIONAL = ("client", "group", "ids", "is_test")


def load(settings: AudioSettings, seed: int) -> Samples:
    """Return the recordings of a folder, or of an .npz file in its order. `seed` is not used.

    Raises:
        DataError: what is there can't be read, or makes no sense.
    """
    path = Path(settings.path).expanduser()
    return _of_archive(settings, path) if path.suffix.lower() == ".npz" else _of_folder(settings, path)


def _of_folder(settings: AudioSettings, root: Path) -> Samples:
    source = f"audio {root}"
    found = class_folders(root, settings.sites, _RECORDINGS)
    soundfile()  # refused at once where it is missing, and not file by file
    digests, texts = inspected(root, found.files, cache.digest_of("sounds-1", str(root.resolve())), inspect)
    facts = [Facts.from_text(text) for text in texts]
    what = looked([file.name for file in found.files], digests, facts, settings.sample_rate, source)
    numbers = np.flatnonzero(what.kept).tolist()
    labels = found.labels
    names = label_names(labels, settings.labels, source)
    inputs = FileSounds(root, tuple(found.files[number].name for number in numbers), what.content, what.sample_rate)
    return Samples(
        inputs=inputs,
        targets=classes([labels[number] for number in numbers], names),
        task="classes",
        label_names=names,
        sample_ids=np.array(inputs.names),
        natural_client=np.array([name.split("/")[0] for name in inputs.names]) if settings.sites else None,
        notes=(*what.notes, *found.notes),
    )


def _of_archive(settings: AudioSettings, path: Path) -> Samples:
    if settings.sites:
        raise DataError(f"audio {path}: sites are folders; an .npz file names clients in an array (arrays.client)")
    file, names = Archive(path), settings.arrays
    there = file.names()
    required = (names.audio, names.offset, names.sample_rate, names.labels)
    wanted = [*required, *(name for key in _OPTIONAL if (name := getattr(names, key)) is not None)]
    missing = [name for name in wanted if name not in there]
    if missing:
        raise DataError(
            f"audio {path}: no array {listed(map(repr, missing), 10)}; it has {listed(there) or 'none'}"
            f"{nearest(missing[0], there)} (source.arrays names them)"
        )
    offset = _offsets(file, names.offset)
    count = len(offset) - 1
    rates = _rates(file, names.sample_rate, count)
    known = cache.remembered(
        "sources",
        cache.digest_of("sounds-1", str(path.resolve()), names.audio, names.offset, names.sample_rate),
        file.stamp(names.audio),
        lambda: _looked_at(file, names.audio, offset, rates),
    )
    ids = _column(file, names.ids, "ids", there, count)
    ids = numbered(count) if ids is None else ids
    facts = [Facts.from_text(text) for text in unpacked(known["facts"])] if count else []
    what = looked(ids.tolist(), known["digests"], facts, settings.sample_rate, f"audio {path}")
    kept = what.kept
    labels = _texts(file, names.labels, there, count)[kept].tolist()
    label_texts = label_names(labels, settings.labels or _names_of(file, names.labels, there), f"audio {path}")
    client, group = (_column(file, getattr(names, key), key, there, count) for key in ("client", "group"))
    used = {*wanted, *(key for key in _OPTIONAL if getattr(names, key) is None)}
    used |= {each for name in used for each in _names_arrays(name)}
    unused = [name for name in there if name not in used]
    return Samples(
        inputs=ArraySounds(
            file, names.audio, offset[:-1][kept], offset[1:][kept], what.rates, what.content, what.sample_rate
        ),
        targets=classes(labels, label_texts),
        task="classes",
        label_names=label_texts,
        sample_ids=ids[kept],
        natural_client=None if client is None else client[kept],
        group=None if group is None else group[kept],
        is_test=_is_test(file, names.is_test, there, count, kept),
        notes=(*what.notes, *([f"arrays that are not used: {listed(unused)}"] if unused else [])),
    )


def _looked_at(
    file: Archive, name: str, offset: NDArray[np.int64], rates: NDArray[np.int64]
) -> Mapping[str, cache.AnyArray]:
    """Return digests and facts of all recordings of an array.

    Raises:
        DataError: it holds no recordings, or others than the offsets say.
    """
    values = file.read(name)
    came = f"audio {file.path}: '{name}' is {values.dtype} of shape {values.shape}"
    if values.ndim not in (1, 2) or values.dtype not in (np.int8, np.int16, np.int32, np.float32, np.float64):
        raise DataError(
            f"{came}; expected (num_samples,) or (num_samples, num_channels) of int16, or of float32 from -1 to 1"
        )
    if offset[-1] > len(values):
        raise DataError(f"{came}, but the offsets end at {offset[-1]}; the file is cut off, or they are another's")
    found = [
        looked_at(as_recording(values[begin:end], int(rate)))
        for begin, end, rate in zip(offset[:-1], offset[1:], rates, strict=True)
    ]
    digests = np.frombuffer(b"".join(digest for digest, _ in found), dtype=np.uint8).reshape(-1, 16)
    return {"digests": digests, "facts": packed([facts.text() for _, facts in found])}


def _offsets(file: Archive, name: str) -> NDArray[np.int64]:
    values = file.read(name)
    came = f"audio {file.path}: '{name}' is {values.dtype} of shape {values.shape}"
    if values.ndim != 1 or values.dtype.kind not in "iu" or len(values) < 2:
        raise DataError(f"{came}; expected where each recording begins and, last, where the last one ends")
    offset = values.astype(np.int64)
    backwards = np.flatnonzero(np.diff(offset) < 0)
    if offset[0] < 0 or len(backwards):
        where = f"row {backwards[0] + 1} is below row {backwards[0]}" if len(backwards) else "it begins below 0"
        raise DataError(f"{came}; offsets must rise from 0, and {where}")
    return offset


def _rates(file: Archive, name: str, count: int) -> NDArray[np.int64]:
    values = file.read(name)
    if (
        values.shape not in ((), (count,))
        or values.dtype.kind not in "iuf"
        or not ((values >= 1) & np.isfinite(values)).all()
    ):
        raise DataError(
            f"audio {file.path}: '{name}' is {values.dtype} of shape {values.shape}; expected one number of samples a "
            f"second, such as 16000, or one for each of {count} recordings"
        )
    return np.broadcast_to(np.rint(np.clip(values, 0, 1e9)).astype(np.int64), (count,))


def _column(file: Archive, name: str | None, default: str, there: Sequence[str], count: int) -> Names | None:
    """Return a column as texts; None: it is not named, and there is none of the default name."""
    name = default if name is None else name
    return _texts(file, name, there, count) if name in there else None


def _texts(file: Archive, name: str, there: Sequence[str], count: int) -> Names:
    """Return a column of one entry a recording as texts: numbers by their names, where the file has any."""
    values = file.read(name)
    if values.shape != (count,) or values.dtype.kind not in "iuU":
        raise DataError(
            f"audio {file.path}: '{name}' is {values.dtype} of shape {values.shape}; expected {count} integers or "
            "texts, one a recording"
        )
    names = _names_of(file, name, there)
    if names is None or values.dtype.kind == "U":
        return values.astype(np.str_)
    bad = np.flatnonzero((values < 0) | (values >= len(names)))
    if len(bad):
        raise DataError(
            f"audio {file.path}: '{name}' has {values[bad[0]]} in row {bad[0]}, but there are {len(names)} names"
        )
    return np.array(names)[values]


def _names_arrays(name: str) -> tuple[str, str]:
    return f"{name}_names", f"{name.removesuffix('s')}_names"


def _names_of(file: Archive, name: str, there: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names of the numbers in a column, such as `speaker_names` of `speaker`; None: the file has none."""
    found = next((each for each in _names_arrays(name) if each in there), None)
    return None if found is None else tuple(file.read(found).astype(np.str_).tolist())


def _is_test(
    file: Archive, name: str | None, there: Sequence[str], count: int, kept: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    name = "is_test" if name is None else name
    if name not in there:
        return None
    values = file.read(name)
    if values.shape != (count,) or values.dtype != np.bool_:
        raise DataError(
            f"audio {file.path}: '{name}' is {values.dtype} of shape {values.shape}; expected {count} booleans"
        )
    return np.asarray(values[kept], dtype=np.bool_)
