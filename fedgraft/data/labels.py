"""Label names: their order, and the targets that texts stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.samples import NO_LABEL
from fedgraft.errors import DataError, listed, nearest


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return distinct names in order: as numbers if all are whole numbers, otherwise as texts."""
    distinct = set(names)
    if all(name.lstrip("-").isdecimal() for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def label_names(found: Iterable[str], declared: Sequence[str] | None, source: str) -> tuple[str, ...]:
    """Return the names in the order of the head's outputs: the declared ones, or those found.

    Raises:
        DataError: a label is found that is not declared, or one is declared twice.
    """
    found = ordered(found)
    if declared is None:
        return found
    if len(set(declared)) < len(declared):
        raise DataError(f"{source}: labels names a label twice: {listed(declared)}")
    unknown = [name for name in found if name not in set(declared)]
    if unknown:
        raise DataError(
            f"{source}: found but not declared in labels: {listed(unknown, 5)}; "
            f"declared are {listed(declared)}{nearest(unknown[0], declared)}"
        )
    return tuple(declared)


def classes(labels: Sequence[str], names: Sequence[str], unlabelled: str | None = None) -> NDArray[np.int64]:
    """Return the number of each label among the names, `(num_samples,)`.

    Args:
        labels: of the samples.
        names: in the order of the head's outputs.
        unlabelled: the text that stands for no label; None: there is none.
    """
    numbers = {name: number for number, name in enumerate(names)}
    if unlabelled is not None:
        numbers |= {unlabelled: NO_LABEL}
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def names_differ(one: str, ours: Sequence[str], other: str, theirs: Sequence[str]) -> str:
    """Say how the features of two owners differ: how many each has, and which only one of them has."""
    lacks, besides = [name for name in ours if name not in theirs], [name for name in theirs if name not in ours]
    said = [f"lacks {listed(map(repr, lacks), 5)}"] if lacks else []
    said += [f"has {listed(map(repr, besides), 5)} besides"] if besides else []
    return f"{one} has {len(ours)}, {other} has {len(theirs)} and {' and '.join(said) or 'them in another order'}"
