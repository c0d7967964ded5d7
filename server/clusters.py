"""Clusters of all clients' features, from sums: principal axes, and Lloyd's steps as exchanges.

S. Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory 28, 1982: each sample goes to the
nearest centre, and each centre to the mean of its samples. Both halves are sums over samples, so the steps are those of
all samples in one place, to rounding, under any split. Principal axes are eigenvectors of the summed covariance.

The first centres are drawn from the Gaussian that has the summed mean and covariance: no client's sample is one. A
cluster that loses all its samples in an early step is put beside the one with the largest inertia, which splits it as
in Linde, Buzo and Gray, "An algorithm for vector quantizer design", IEEE Transactions on Communications 28, 1980.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedgraft.alignment.moments import moments_of
from fedgraft.errors import FedGraftError, WireError
from fedgraft.progress import report
from fedgraft.randomness import rng
from fedgraft.submission import Submission
from fedgraft.wire.clusters import WHOLE, clusters_shapes, described_shapes
from fedgraft.wire.records import Arrays, expect, unpack
from fedgraft.wire.requests import ClustersReply
from server.checkpoint import Counters
from server.roster import Call, Roster
from server.statistics import Inquiry
from server.sums import check_body, check_type
from server.survey import begin_inquiry

Array = NDArray[np.float64]

EARLY_STEPS = 20
"""In which clusters without samples are put elsewhere; later they stay, so that the steps come to an end."""

APART = 0.3
"""How far from the centre beside it such a cluster is put, in root mean squared distances of that one's samples."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        clusters: how many.
        components: principal axes onto which features are projected first; None: they are left as they are.
        starts: how many draws of first centres are tried.
        steps: at most.
        labelled: how many samples of each class and client say which classes clusters are.
        first: `(num_starts, num_clusters, D)` first centres, in place of drawn ones.
    """

    clusters: int
    components: int | None = None
    starts: int = 8
    steps: int = 300
    labelled: int = 0
    first: Array | None = None


@dataclass(frozen=True)
class Found:
    """What came out.

    Attributes:
        roster: all clients.
        mean: `(D,)` of all features.
        axes: `(num_axes, D)` principal axes, the longest first; all of them, or those that were projected onto.
        variances: `(D,)` along all axes, descending, divided by the number of samples.
        centres: `(k, D)`, of clusters in falling order of their sizes.
        inertias: `(num_steps,)` of the best start, before each step and after the last.
        starts: inertia of each start at its end.
        converged: whether no sample changed its cluster in the last step.
        sums: of the last centres: see `fedgraft.wire.clusters`; clients in the order of the roster.
        counters: bytes and seconds.
    """

    roster: Roster
    mean: Array
    axes: Array
    variances: Array
    centres: Array
    inertias: Array
    starts: tuple[float, ...]
    converged: bool
    sums: Mapping[str, NDArray[Any]]
    counters: Counters


@dataclass(frozen=True)
class Asker:
    """Asks the hosts for sums by cluster.

    Attributes:
        inquiry: whom to ask.
        space: `mean` and perhaps `axes`.
    """

    inquiry: Inquiry
    space: Mapping[str, Array]

    def ask(self, centres: Array, describe: bool = False, labelled: int = 0) -> dict[str, NDArray[Any]]:
        """Return the sums over all clients for centres `(num_starts, num_clusters, d)`.

        Raises:
            WireError: a reply does not fit.
            HostError: a host failed.
        """
        roster = self.inquiry.questions.roster
        calls = roster.calls(np.arange(len(roster.names)))
        messages = self.inquiry.questions.clusters(calls, {"centres": centres, **self.space}, describe, labelled)
        replies = self.inquiry.ask("clusters", messages)
        return combine_clusters(calls, replies, roster, centres.shape, describe)


def combine_clusters(
    calls: Sequence[Call], replies: Sequence[Message], roster: Roster, shape: tuple[int, ...], describe: bool
) -> dict[str, NDArray[Any]]:
    """Check the replies to `query.clusters` and return their sum, in the order of the calls.

    Raises:
        WireError: names, shapes, types or counts are others than they must be.
    """
    starts, clusters, dim = shape
    num_classes = len(roster.label_names) if roster.task == "classes" else 0
    total: dict[str, NDArray[Any]] = {}
    everybody = roster.with_unlabelled()
    for call, reply in zip(calls, replies, strict=True):
        what = f"reply to query.clusters, shard {call.shard}, host {call.node}"
        body, groups = unpack(reply.content, ClustersReply, what)
        num_samples = check_body(body, call, everybody, what)
        shapes = clusters_shapes(starts, clusters, dim)
        shapes |= described_shapes(len(call.clients), clusters, num_classes) if describe else {}
        expect(groups.get("sums"), shapes, what)
        sums = groups["sums"]
        for name, value in sums.items():
            check_type({name: value}, np.dtype(np.int64 if name in WHOLE else np.float64), what)
        _check_counts(sums, roster, call, num_samples, what)
        own = sums.pop("client_count", None)
        if own is not None:
            by_client = total.setdefault("client_count", np.zeros((len(roster.names), clusters), dtype=np.int64))
            by_client[call.clients] = own
        for name, value in sums.items():
            total[name] = total[name] + value if name in total else value.copy()
    return total


def _check_counts(sums: Arrays, roster: Roster, call: Call, num_samples: int, what: str) -> None:
    """Refuse counts that these clients can't have, and squared distances below 0."""
    if any((sums[name] < 0).any() for name in WHOLE if name in sums) or (sums["inertia"] < 0).any():
        raise WireError(f"{what}: counts and inertia must be from 0")
    if (sums["count"].sum(axis=1) != num_samples).any():
        raise WireError(f"{what}: its counts add up to {sums['count'].sum(axis=1)}, expected {num_samples:,}")
    own = sums.get("client_count")
    if own is not None and (own.sum(axis=1) != roster.with_unlabelled().num_train[call.clients]).any():
        raise WireError(f"{what}: counts by client don't add up to the clients' training samples")
    labelled = int(roster.num_train[call.clients].sum())
    if "contingency" in sums and sums["contingency"].sum() != labelled:
        raise WireError(f"{what}: counts by class add up to {sums['contingency'].sum():,}, expected {labelled:,}")


def principal_axes(covariance: Array) -> tuple[Array, Array]:
    """Return variances `(D,)`, descending, and axes `(D, D)`, one a row; the largest entry of each is positive."""
    values, vectors = np.linalg.eigh(covariance)
    axes = np.ascontiguousarray(vectors[:, ::-1].T)
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)]
    return np.maximum(values[::-1], 0.0), axes * np.where(largest < 0, -1.0, 1.0)[:, None]


def lloyd(
    asker: Asker, first: Array, steps: int, scatter: Array, seed: int
) -> tuple[Array, list[list[float]], list[bool]]:
    """Go steps of Lloyd from several first centres side by side; return last centres, inertias, and who converged.

    Args:
        asker: it asks the hosts.
        first: `(num_starts, num_clusters, d)`.
        steps: at most.
        scatter: `(num_axes, d)`; standard normal numbers times it are distributed as samples are.
        seed: for clusters that lose all their samples.
    """
    centres = first.copy()
    inertias: list[list[float]] = [[] for _ in first]
    converged = [False] * len(first)
    for step in range(1, steps + 1):
        going = [start for start, done in enumerate(converged) if not done]
        if not going:
            break
        sums = asker.ask(centres[going])
        for place, start in enumerate(going):
            inertias[start].append(float(sums["inertia"][place].sum()))
            own = {name: value[place] for name, value in sums.items()}
            moved = _means(centres[start], own)
            if step <= EARLY_STEPS:
                _split(moved, own, scatter, rng(seed, f"empty clusters of start {start}", step))
            converged[start] = bool(np.array_equal(moved, centres[start]))
            centres[start] = moved
        report("clusters", step=step, of=steps, going=len(going), inertia=min(found[-1] for found in inertias))
    return centres, inertias, converged


def _means(centres: Array, sums: Mapping[str, NDArray[Any]]) -> Array:
    """Return the means of the clusters' samples; empty clusters stay where they are."""
    count = sums["count"]
    return np.where(count[:, None] > 0, sums["sum"] / np.maximum(count, 1)[:, None], centres)


def _split(centres: Array, sums: Mapping[str, NDArray[Any]], scatter: Array, generator: np.random.Generator) -> None:
    """Put empty clusters beside those with the largest inertia, each beside another."""
    count, inertia = sums["count"], sums["inertia"]
    widest = np.argsort(-inertia, kind="stable")
    for place, empty in enumerate(np.flatnonzero(count == 0)):
        beside = widest[place % len(widest)]
        step = generator.standard_normal(len(scatter)) @ scatter
        length = float(np.linalg.norm(step))
        reach = APART * np.sqrt(inertia[beside] / max(int(count[beside]), 1))
        centres[empty] = centres[beside] + step * (reach / length if length else 0.0)


def find_clusters(grid: Grid, submission: Submission, wanted: Wanted) -> Found:
    """Ask the hosts for moments and then, step by step, for sums by cluster.

    Raises:
        FedGraftError: there are fewer samples, or features, than are asked for.
        WireError: a reply does not fit.
        HostError: a host failed.
    """
    part, inquiry = begin_inquiry(grid, submission)
    roster = inquiry.questions.roster
    _check_wanted(wanted, int(roster.with_unlabelled().num_train.sum()), inquiry.questions.feature_dim)
    moments = moments_of(inquiry.moments("full"))
    variances, axes = principal_axes(moments.covariance)
    kept = axes[: wanted.components]
    projects = wanted.components is not None
    space = {"mean": moments.mean, **({"axes": kept} if projects else {})}
    asker = Asker(inquiry, space)
    first = _first(wanted, moments.mean, axes, variances, part.seed)
    deviations = np.sqrt(variances[: len(kept)])
    scatter = np.diag(deviations) if projects else deviations[:, None] * kept
    ends, inertias, converged = lloyd(asker, first, wanted.steps, scatter, part.seed)
    best = int(np.argmin([found[-1] for found in inertias]))
    counted = asker.ask(ends[best : best + 1])["count"][0]
    order = np.argsort(-counted, kind="stable")
    sums = asker.ask(ends[best : best + 1, order], describe=True, labelled=wanted.labelled)
    centres = ends[best, order]
    whole = centres @ kept if projects else centres
    return Found(
        roster,
        moments.mean,
        kept,
        variances,
        moments.mean + whole,
        np.array([*inertias[best], float(sums["inertia"].sum())]),
        tuple(found[-1] for found in inertias),
        converged[best],
        sums,
        inquiry.counters,
    )


def _first(wanted: Wanted, mean: Array, axes: Array, variances: Array, seed: int) -> Array:
    """Return the first centres, `(num_starts, num_clusters, d)`, less the mean: those that came, or drawn ones."""
    kept, deviations = axes[: wanted.components], np.sqrt(variances[: wanted.components])
    projects = wanted.components is not None
    if wanted.first is not None:
        centred = np.asarray(wanted.first, dtype=np.float64) - mean
        return centred @ kept.T if projects else centred
    draws = [
        rng(seed, "first centres", start).standard_normal((wanted.clusters, len(kept)))
        for start in range(wanted.starts)
    ]
    drawn = np.stack(draws) * deviations
    return drawn if projects else drawn @ kept


def _check_wanted(wanted: Wanted, num_samples: int, feature_dim: int) -> None:
    """Refuse what these samples can't give.

    Raises:
        FedGraftError: says how many there are.
    """
    if wanted.clusters > num_samples:
        raise FedGraftError(f"clusters: came {wanted.clusters:,}, but clients have {num_samples:,} training samples")
    if wanted.components is not None and wanted.components > feature_dim:
        raise FedGraftError(f"components: came {wanted.components:,}, but there are {feature_dim:,} features")
    if wanted.first is not None and np.shape(wanted.first)[1:] != (wanted.clusters, feature_dim):
        text = f"came first centres of shape {np.shape(wanted.first)}"
        raise FedGraftError(f"{text}; expected (starts, {wanted.clusters}, {feature_dim})")
