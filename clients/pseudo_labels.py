"""Pseudo-labels: what the head that a round begins with says of a client's training samples without labels.

They are a function of the request alone, so that the same samples are trained on in every form, on every runtime and
whenever the request comes again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients.members import Groups, Members, joined
from fedgraft.data.ragged import merged, ragged
from fedgraft.data.samples import NO_LABEL
from fedgraft.errors import WireError
from fedgraft.evaluation import Objective
from fedgraft.models.heads import as_tensors, head_shapes
from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.wire.records import Arrays, expect
from fedgraft.wire.requests import ClientsRequest

if TYPE_CHECKING:
    import torch

LABELLER = "labeller"
"""The group of a request's arrays that holds the head that labels."""
COUNTS = "pseudo_labels"
"""The group of a reply's arrays that says how many samples were labelled."""


@dataclass(frozen=True)
class Labelled:
    """Clients with pseudo-labelled samples among their training samples.

    Attributes:
        members: the host's clients; those that the request names have these samples.
        counts: of each client that it names, `(num,)` int64: `count` of such samples, how many of them have a label
            that was not used (`known`), and how many were labelled as that says (`right`).
    """

    members: Members
    counts: dict[str, NDArray[np.int64]]


def labelled_for_query(members: Members, request: ClientsRequest, groups: Groups) -> tuple[Members, Groups]:
    """Return the clients that a query about training samples is asked of, and what its reply says beside the answer.

    Args:
        members: all clients of the host.
        request: with pseudo-labels or without.
        groups: its arrays.

    Raises:
        WireError: the head that labels is missing or does not fit.
    """
    settings = request.pseudo_labels
    if settings is None:
        return members, {}
    features, objective = members.features(request.weights_digest, groups), members.objective
    head, shapes = groups.get(LABELLER), head_shapes(objective.head, features.shape[1], objective.num_outputs)
    expect(head, shapes, "the request's labeller", np.dtype(np.float32))
    found = labelled(members, settings, head or {}, features, objective, members.index(groups))
    return found.members, {COUNTS: found.counts}


def labelled(
    members: Members,
    settings: PseudoLabelSettings,
    head: Arrays,
    features: NDArray[Any],
    objective: Objective,
    index: NDArray[np.int64],
) -> Labelled:
    """Return clients with those samples among their training samples that a head is sure of.

    Args:
        members: all clients of the host.
        settings: how sure it has to be.
        head: which labels.
        features: `(num_samples, feature_dim)` of all samples; activations where there are blocks.
        objective: what the head is for.
        index: the clients, ascending positions among the host's.

    Raises:
        WireError: the targets are no classes.
    """
    if objective.task != "classes":
        raise WireError(f"pseudo-labels need one class a sample; the targets are {objective.task!r}")
    federation = members.workspace.federation
    positions = members.clients[index]
    rows, owners = joined(federation.unlabelled, positions)
    device = members.device if objective.blocks is None else None
    classes, confidence = most_probable(features, rows, head, objective, device)
    chosen = sure(owners, classes, confidence, settings)
    rows, owners, classes = rows[chosen], owners[chosen], classes[chosen]
    truth = federation.samples.targets[rows]
    counts = {
        "count": np.bincount(owners, minlength=len(index)),
        "known": np.bincount(owners[truth != NO_LABEL], minlength=len(index)),
        "right": np.bincount(owners[truth == classes], minlength=len(index)),
    }
    targets = federation.samples.targets.astype(np.int64)
    targets[rows] = classes
    lengths = np.zeros(federation.num_clients, dtype=np.int64)
    lengths[positions] = counts["count"]  # rows lie client after client, as positions ascend
    other = replace(
        federation,
        samples=replace(federation.samples, targets=targets),
        train=merged(federation.train, ragged(rows, lengths)),
    )
    return Labelled(members.with_training(other), {name: value.astype(np.int64) for name, value in counts.items()})


def most_probable(
    features: NDArray[Any],
    rows: NDArray[np.int64],
    head: Arrays,
    objective: Objective,
    device: torch.device | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each row's most probable class, of equal ones the first, and how probable it is, `(num_rows,)`."""
    import torch

    parameters = {name: value.to(device) for name, value in as_tensors(head).items()}
    classes, confidence = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows))
    for first in range(0, len(rows), objective.rows_a_chunk):
        chunk = slice(first, first + objective.rows_a_chunk)
        inputs = torch.from_numpy(np.asarray(features[rows[chunk]], dtype=np.float32)).to(device)
        with torch.inference_mode():
            highest = objective.outputs(parameters, inputs).double().softmax(1).max(1)
        classes[chunk], confidence[chunk] = highest.indices.cpu().numpy(), highest.values.cpu().numpy()
    return classes, confidence


def sure(
    owners: NDArray[np.int64],
    classes: NDArray[np.int64],
    confidence: NDArray[np.float64],
    settings: PseudoLabelSettings,
) -> NDArray[np.bool_]:
    """Return which samples are trained on, `(num_samples,)`.

    Args:
        owners: each sample's client.
        classes: its most probable class.
        confidence: how probable that is.
        settings: how probable it has to be, and how many of a class a client may have.
    """
    chosen: NDArray[np.bool_] = confidence >= settings.threshold
    if settings.most_per_class is None:
        return chosen
    places = np.flatnonzero(chosen)
    order = places[np.lexsort((-confidence[places], classes[places], owners[places]))]
    begins = np.ones(len(order), dtype=np.bool_)
    begins[1:] = (np.diff(owners[order]) != 0) | (np.diff(classes[order]) != 0)
    turn = np.arange(len(order))
    rank = turn - np.maximum.accumulate(np.where(begins, turn, 0))
    chosen[order[rank >= settings.most_per_class]] = False
    return chosen
