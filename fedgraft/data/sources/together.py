"""Samples of several files as one: each file is a client, and all must have the same features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fedgraft.data.labels import names_differ, ordered
from fedgraft.data.samples import Samples
from fedgraft.data.sources.ready import ReadyFeatures
from fedgraft.errors import DataError


def together(path: Path, parts: Mapping[str, Samples], labels: Sequence[str] | None) -> Samples:
    """Return the samples of all files, in their order; a file is the client of its rows, unless these name theirs.

    Args:
        path: the folder, for texts.
        parts: samples with features by the name of their file.
        labels: the classes, where they are declared; otherwise those of any file.

    Raises:
        DataError: files differ in what their features are; both are named.
    """
    first_name, first = next(iter(parts.items()))
    for name, part in parts.items():
        if part.feature_names != first.feature_names:
            difference = names_differ(first_name, first.feature_names, name, part.feature_names)
            raise DataError(f"{path}: all files must have the same features: {difference}")
    names = first.label_names
    if first.task == "classes" and labels is None:
        names = ordered(name for part in parts.values() for name in part.label_names)
    place = {name: number for number, name in enumerate(names)}
    targets = [
        np.array([place[name] for name in part.label_names], dtype=np.int64)[part.targets]
        if first.task == "classes"
        else part.targets
        for part in parts.values()
    ]
    owners = [
        np.full(part.num_samples, name) if part.natural_client is None else part.natural_client
        for name, part in parts.items()
    ]
    groups = [part.group for part in parts.values() if part.group is not None]
    tests = [part.is_test for part in parts.values() if part.is_test is not None]
    return Samples(
        inputs=ReadyFeatures(
            np.concatenate([part.features() for part in parts.values()]),
            np.concatenate([part.sample_digests() for part in parts.values()]),
        ),
        targets=np.concatenate(targets),
        task=first.task,
        label_names=names,
        sample_ids=np.concatenate([np.char.add(f"{name}/", part.sample_ids) for name, part in parts.items()]),
        natural_client=np.concatenate(owners),
        group=np.concatenate(groups) if groups else None,
        is_test=np.concatenate(tests) if tests else None,
        notes=tuple(dict.fromkeys(note for part in parts.values() for note in part.notes)),
        feature_names=first.feature_names,
    )
