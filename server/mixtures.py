"""Checks and joins what hosts answer to `query.mixtures`; nothing is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedgraft.errors import WireError
from fedgraft.wire.mixtures import Covariance, mixture_shapes
from fedgraft.wire.records import Arrays, expect, unpack
from fedgraft.wire.requests import MixturesReply
from server.roster import Call, Roster
from server.sums import check_body, check_type

TOLERANCE = 1e-4
"""Rounding of float32 that shares, and matrices that must be symmetric, may show."""


def combine_mixtures(
    calls: Sequence[Call],
    replies: Sequence[Message],
    roster: Roster,
    feature_dim: int,
    most_components: int,
    covariance: Covariance,
) -> dict[str, NDArray[Any]]:
    """Check the replies to `query.mixtures` and return their rows by client, then class, whatever the hosts.

    `client` becomes the position in the roster.

    Raises:
        WireError: names, shapes or types are others than they must be, or these are no mixtures of such clients.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    for call, reply in zip(calls, replies, strict=True):
        what = f"reply to query.mixtures, shard {call.shard}, host {call.node}"
        body, groups = unpack(reply.content, MixturesReply, what)
        check_body(body, call, roster, what)
        rows = groups.get("rows", {})
        number = len(rows["client"]) if "client" in rows and rows["client"].ndim == 1 else 0
        expect(groups.get("rows"), mixture_shapes(number, feature_dim, covariance), what)
        for name, value in rows.items():
            check_type({name: value}, np.dtype(np.int64 if name in ("client", "class", "count") else np.float32), what)
        _check_rows(rows, roster.num_train[call.clients], len(roster.label_names), most_components, what)
        _check_covariance(rows["covariance"], covariance, what)
        parts.append({**rows, "client": call.clients[rows["client"]]})
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((whole["class"], whole["client"]))  # stable: components keep their order
    return {name: value[order] for name, value in whole.items()}


def _check_rows(rows: Arrays, num_train: NDArray[np.int64], num_classes: int, most: int, what: str) -> None:
    """Refuse rows that clients with these numbers of samples, `(num_clients,)`, can't have."""
    for name, end in (("client", len(num_train)), ("class", num_classes)):
        if len(rows[name]) and (rows[name].min() < 0 or rows[name].max() >= end):
            came = f"{rows[name].min()} to {rows[name].max()}"
            raise WireError(f"{what}: {name} goes from {came}; expected 0 to {end - 1}")
    place = rows["client"] * num_classes + rows["class"]
    if (np.diff(place) < 0).any():
        raise WireError(f"{what}: its rows are not ordered by client and class")
    found, first, number = np.unique(place, return_index=True, return_counts=True)
    if len(number) and number.max() > most:
        raise WireError(f"{what}: a class of a client has {number.max()} components; at most {most} were asked for")
    counts = rows["count"]
    sums = np.zeros(len(num_train), dtype=np.int64)
    np.add.at(sums, found // num_classes, counts[first])
    if (counts < 1).any() or (counts != np.repeat(counts[first], number)).any() or (sums != num_train).any():
        raise WireError(f"{what}: counts of its classes don't add up to each client's training samples")
    shares = np.add.reduceat(rows["share"].astype(np.float64), first) if len(first) else np.zeros(0)
    if (rows["share"] < 0).any() or (np.abs(shares - 1) > TOLERANCE).any():
        worst = shares[np.abs(shares - 1).argmax()]
        raise WireError(f"{what}: shares of a mixture must be from 0 and add up to 1; a sum is {worst:g}")


def _check_covariance(values: NDArray[np.float32], covariance: Covariance, what: str) -> None:
    """Refuse variances that are not above 0, and matrices that are not symmetric and positive definite."""
    variances = np.diagonal(values, axis1=-2, axis2=-1) if covariance == "full" else values
    if not (variances > 0).all():
        raise WireError(f"{what}: a variance is {variances.min():g}; all must be above 0")
    if covariance != "full":
        return
    for number, matrix in enumerate(values.astype(np.float64)):
        if np.abs(matrix - matrix.T).max() > TOLERANCE * np.abs(matrix).max():
            raise WireError(f"{what}: covariance of row {number} is not symmetric")
        least = float(np.linalg.eigvalsh(matrix)[0])
        if least < -TOLERANCE * float(np.trace(matrix)):
            raise WireError(f"{what}: covariance of row {number} is not positive (an eigenvalue is {least:.3g})")
