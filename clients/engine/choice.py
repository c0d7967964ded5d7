"""Which form trains which clients: buckets of like size, and the cheaper form for each.

The cost model is a formula of shapes, never a timing, so that every machine chooses alike. Its weights are nanoseconds
that were fitted, once, to `benchmarks/forms.py` on one AVX2 core (Zen 3); only the order of two costs counts. With `n`
samples, `D` features, `C` outputs, `S` steps and `v` samples in all of them (epochs x n):

- dual: `3400 S + v n (0.89 + 0.21 C) + 18 v C` for the steps; `n D (1.7 + 0.037 C)` for the outputs at the start and
  the update; and `0.021 n^2 D / ROUNDS` for the Gram matrix, which is computed once and serves all rounds;
- primal: `4300 S + v D (2.3 + 0.035 C) + 29 v C + 3.6 S D C` for the steps, of which copies of the head, read and
  written, are the most; and `0.69 n D` to fetch the features.

Of 88 shapes (5 to 2,000 samples, 256 and 1,280 features, 2 to 100 outputs) its choice takes at most 1.07 times as long
as the faster form; predicted and measured ratios of the two differ by a third at most in 77.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clients.engine.batches import num_steps
from clients.settings import Sgd, TrainSettings
from fedgraft.models.head_settings import HeadSettings, LinearHead

Form = Literal["dual", "primal"]
_FORMS: tuple[Form, ...] = ("dual", "primal")

ROUNDS = 20
"""Rounds that a Gram matrix is expected to serve."""

LARGEST_RATIO = 1.25
"""Of the largest client's samples to the smallest's in a bucket: padding wastes at most as much."""

BYTES_AT_ONCE = 128 * 2**20
"""Padded features, Gram matrices and copies of the head of the clients that train at once."""

CACHE_BYTES = 8 * 2**20
"""Heads, gradients and batches of the clients that train at once in the primal form: each step goes through all."""

FEW = 32
"""Clients below which the steps cost little more than their calls; so few share their steps with smaller ones."""

SIDE_BY_SIDE = 8
"""Groups that a bucket is cut into, so that threads have some each; a constant, since groups decide bits."""

ENOUGH = 250
"""Clients that a group keeps at least when it is cut for that: the calls of a step cost as much as 60 clients do."""

FEW_RATIO = 2
"""Of the largest client's samples to the smallest's where few train at once."""


@dataclass(frozen=True)
class Bucket:
    """Clients of like size.

    Attributes:
        clients: `(num_clients,)` positions in the host's list, in falling order of their sizes.
        sizes: `(num_clients,)` training samples.
        form: how they train.
    """

    clients: NDArray[np.int64]
    sizes: NDArray[np.int64]
    form: Form


def dual_fits(head: HeadSettings, train: TrainSettings) -> bool:
    """Whether the dual form can train these heads: linear ones, under an optimiser linear in the gradients."""
    return isinstance(head, LinearHead) and isinstance(train.optimizer, Sgd)


def cost(form: Form, size: int, feature_dim: int, num_outputs: int, train: TrainSettings) -> float:
    """Return the predicted cost of one client of `size` samples: nanoseconds a round on one core of some machine."""
    steps = int(num_steps(np.array([size]), train)[0])
    visits = steps * min(train.batch_size, size)
    if train.local_epochs is not None or train.local_steps is None:
        visits = min(visits, (train.local_epochs or 1) * size)  # an epoch's last batch may be smaller
    if form == "dual":
        return (
            3400 * steps
            + visits * (size * (0.89 + 0.21 * num_outputs) + 18 * num_outputs)
            + size * feature_dim * (1.7 + 0.037 * num_outputs)
            + 0.021 * size * size * feature_dim / ROUNDS
        )
    return (
        4300 * steps
        + visits * (feature_dim * (2.3 + 0.035 * num_outputs) + 29 * num_outputs)
        + 3.6 * steps * feature_dim * num_outputs
        + 0.69 * size * feature_dim
    )


def choose(size: int, feature_dim: int, num_outputs: int, head: HeadSettings, train: TrainSettings) -> Form:
    """Return the form for clients of `size` samples; `primal` where one Gram matrix would be too large."""
    if not dual_fits(head, train) or train.form == "primal" or 4 * size**2 > BYTES_AT_ONCE:
        return "primal"
    if train.form == "dual":
        return "dual"
    dual, primal = (cost(form, size, feature_dim, num_outputs, train) for form in _FORMS)
    return "dual" if dual <= primal else "primal"


def buckets(
    sizes: NDArray[np.int64], feature_dim: int, num_outputs: int, head: HeadSettings, train: TrainSettings
) -> list[Bucket]:
    """Return all clients with samples in buckets, in falling order of their steps and sizes.

    Args:
        sizes: `(num_clients,)` training samples of each client of the host.
        feature_dim: length of a feature vector.
        num_outputs: of the head.
        head: kind of head.
        train: how clients train.
    """
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    falling = -sizes[order]
    found: list[Bucket] = []
    first = 0
    while first < len(order):
        largest = int(-falling[first])
        last = int(np.searchsorted(falling, -largest / LARGEST_RATIO, side="right"))
        form = choose(largest, feature_dim, num_outputs, head, train)
        found.append(Bucket(order[first:last], -falling[first:last], form))
        first = last
    return found


def at_once(form: Form, largest: int, feature_dim: int, num_parameters: int, train: TrainSettings) -> int:
    """Return how many clients of up to `largest` samples may train at once, at least 1."""
    held = largest * feature_dim + (largest**2 if form == "dual" else 4 * num_parameters)
    most = max(1, BYTES_AT_ONCE // (4 * held))
    if form == "dual":
        return most
    touched = 2 * num_parameters + min(train.batch_size, largest) * feature_dim
    return min(most, max(FEW // 2, CACHE_BYTES // (4 * touched)))


def groups(
    found: Sequence[Bucket],
    chosen: Sequence[NDArray[np.int64]],
    feature_dim: int,
    num_parameters: int,
    train: TrainSettings,
) -> list[list[tuple[int, NDArray[np.int64]]]]:
    """Return which of the chosen clients train at once: rows of one bucket, or where they are few, of several.

    Args:
        found: the buckets, in falling order of sizes.
        chosen: of each bucket, ascending rows of the clients that train.
        feature_dim: length of a feature vector.
        num_parameters: of the head.
        train: how clients train.
    """
    formed: list[list[tuple[int, NDArray[np.int64]]]] = []
    count, room, largest, form = 0, 0, 0, ""
    for number, (bucket, rows) in enumerate(zip(found, chosen, strict=True)):
        if not len(rows):
            continue
        near = int(bucket.sizes[rows[-1]]) * FEW_RATIO >= largest or largest <= train.batch_size
        if near and bucket.form == form and count + len(rows) <= min(room, FEW):
            formed[-1].append((number, rows))
            count += len(rows)
            continue
        largest, form = int(bucket.sizes[0]), bucket.form
        room = at_once(bucket.form, largest, feature_dim, num_parameters, train)
        count = max(-(-len(rows) // room), min(SIDE_BY_SIDE, len(rows) // ENOUGH))
        if count > SIDE_BY_SIDE:  # a whole number each for 2, 4 or 8 threads, so that none waits for the last group
            count = min(-(-count // SIDE_BY_SIDE) * SIDE_BY_SIDE, len(rows))
        parts = np.array_split(rows, count)
        formed += [[(number, part)] for part in parts]
        count = len(parts[-1])
    return formed


def explain(found: list[Bucket], feature_dim: int, num_outputs: int, train: TrainSettings) -> list[str]:
    """Return a line a form: how many clients it trains, of what sizes, and what it was predicted to cost."""
    lines = []
    for form in _FORMS:
        chosen = [bucket for bucket in found if bucket.form == form]
        if chosen:
            sizes = np.concatenate([bucket.sizes for bucket in chosen])
            largest = int(sizes.max())
            predicted = {name: cost(name, largest, feature_dim, num_outputs, train) for name in _FORMS}
            costs = ", ".join(f"{name} {value / 1000:.2g}" for name, value in predicted.items())
            lines.append(
                f"{form} form for {len(sizes):,} clients of {int(sizes.min())} to {largest} samples in {len(chosen)} "
                f"buckets (predicted microseconds a round for the largest: {costs})"
            )
    return lines
