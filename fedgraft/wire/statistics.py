"""What a reply to `query.statistics` holds: names and shapes of the sums, and their bytes before they are asked for."""

from __future__ import annotations

from typing import Literal

from fedgraft.errors import WireError
from fedgraft.models.losses import Task

SecondMoment = Literal["none", "diagonal", "shared", "per_class"]

LARGEST_STATISTICS_BYTES = 1_000_000_000
"""Above it a reply is refused before anything is computed or asked for."""

SUMS_TOLERANCE = 1e-9
"""Relative rounding that sums of the same rows, in another order, may show."""

_HEADER_BYTES = 128
"""NumPy's header of an array of at most three dimensions."""


def statistics_shapes(
    num_outputs: int,
    feature_dim: int,
    second_moment: SecondMoment,
    task: Task = "classes",
    radial_moments: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each sum, by name; all are float64 sums over training samples.

    Classes: `class_count` `(C,)` and `class_sum` `(C, D)`, samples and summed features of each class. They are
    `Y^T 1` and `Y^T X` of one-hot targets `Y`.

    Labels (zeros and ones) and real targets: `count` `()`, `feature_sum` `(D,)`, `target_sum` `(T,)`,
    `target_square` `(T,)`, and `cross_moment` `(T, D)`, which is `Y^T X`.

    Second moments: `diagonal` adds `square_sum`, sums of squared features, `(C, D)` by class, otherwise `(D,)`;
    `shared` adds `second_moment` `(D, D)`, which is `X^T X`; `per_class` the same by class, `(C, D, D)`.

    Radial moments: `third_moment` `(D,)`, the sum of `|x|^2 x`, and `fourth_moment` `()`, that of `|x|^4`.

    Raises:
        WireError: `per_class` for targets that are not classes.
    """
    if task == "classes":
        shapes: dict[str, tuple[int, ...]] = {"class_count": (num_outputs,), "class_sum": (num_outputs, feature_dim)}
    else:
        shapes = {"count": (), "feature_sum": (feature_dim,), "target_sum": (num_outputs,)}
        shapes |= {"target_square": (num_outputs,), "cross_moment": (num_outputs, feature_dim)}
    if second_moment == "per_class" and task != "classes":
        raise WireError(
            f"second_moment 'per_class' needs one class a sample; the targets are {task!r}: ask for shared or diagonal"
        )
    if second_moment == "diagonal":
        shapes["square_sum"] = shapes["class_sum"] if task == "classes" else (feature_dim,)
    elif second_moment == "shared":
        shapes["second_moment"] = (feature_dim, feature_dim)
    elif second_moment == "per_class":
        shapes["second_moment"] = (num_outputs, feature_dim, feature_dim)
    if radial_moments:
        shapes |= {"third_moment": (feature_dim,), "fourth_moment": ()}
    return shapes


def statistics_bytes(
    num_outputs: int,
    feature_dim: int,
    second_moment: SecondMoment,
    task: Task = "classes",
    radial_moments: bool = False,
) -> int:
    """Return the bytes of one reply's arrays, as packed; the reply's text adds less than 100."""
    total = 0
    for shape in statistics_shapes(num_outputs, feature_dim, second_moment, task, radial_moments).values():
        size = 8
        for length in shape:
            size *= length
        total += size + _HEADER_BYTES
    return total


def check_statistics_size(
    num_outputs: int,
    feature_dim: int,
    second_moment: SecondMoment,
    task: Task = "classes",
    radial_moments: bool = False,
) -> None:
    """Refuse sums that would not fit.

    Raises:
        WireError: more than `LARGEST_STATISTICS_BYTES`, or `per_class` for targets that are not classes.
    """
    size = statistics_bytes(num_outputs, feature_dim, second_moment, task, radial_moments)
    if size <= LARGEST_STATISTICS_BYTES:
        return
    smaller: tuple[SecondMoment, ...] = ("shared", "diagonal", "none")
    forecasts = ", ".join(f"{kind} {statistics_bytes(num_outputs, feature_dim, kind, task):,}" for kind in smaller)
    raise WireError(
        f"second_moment {second_moment!r} of {num_outputs:,} outputs and {feature_dim:,} features is {size:,} bytes "
        f"a reply, more than {LARGEST_STATISTICS_BYTES:,}; ask for less ({forecasts} bytes) or cut the backbone "
        "where it has fewer features"
    )


def class_rows_shapes(num_rows: int, feature_dim: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of a reply to `query.class_sums`, by name.

    A row is one client and one class of which it has samples: `client` its turn among the clients that were asked,
    `class`, `count` its samples, all int64; and `class_sum`, their summed features, float64.
    """
    return {"client": (num_rows,), "class": (num_rows,), "count": (num_rows,), "class_sum": (num_rows, feature_dim)}


def class_rows_bytes(num_rows: int, feature_dim: int) -> int:
    """Return the bytes of so many rows of class sums."""
    return num_rows * 8 * (feature_dim + 3)


def check_class_rows_size(num_rows: int, feature_dim: int) -> None:
    """Refuse class sums of single clients that would not fit; they grow with the number of clients.

    Raises:
        WireError: more than `LARGEST_STATISTICS_BYTES`.
    """
    size = class_rows_bytes(num_rows, feature_dim)
    if size > LARGEST_STATISTICS_BYTES:
        raise WireError(
            f"class sums of single clients, {num_rows:,} rows of {feature_dim:,} features, are {size:,} bytes a reply, "
            f"more than {LARGEST_STATISTICS_BYTES:,}; use more shards, or ridge, whose sums don't grow with the clients"
        )
