"""Which samples statistics would be of, for the policy."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from clients.members import Groups, Members, joined
from clients.pseudo_labels import labelled_for_query
from clients.site.policy import Cohort
from fedgraft.randomness import GAMMA
from fedgraft.wire.requests import ClientsRequest, MomentsRequest


def cohort_of(members: Members, request: ClientsRequest, groups: Groups) -> Cohort:
    """Return the training samples of the clients that a request names: those that its answer would be of.

    A sample is known by its content, so that it stays the same whatever its file or place, and whichever run asks; one
    with a pseudo-label by that too, since it moves from one class's sum to another's when its label changes.

    Raises:
        WireError: the request names no clients of this site, or the head that labels does not fit.
    """
    index, positions = members.index(groups), members.clients[members.index(groups)]
    federation = members.workspace.federation
    if isinstance(request, MomentsRequest):  # which needs no labels
        return Cohort(_fingerprints(members)[joined(federation.all_train, positions)[0]], None, len(index))
    known, samples = _fingerprints(members), federation.samples
    labelled, _ = labelled_for_query(members, request, groups)
    rows, counts = joined(labelled.workspace.federation.train, positions)[0], None
    if samples.task == "classes":
        targets = labelled.workspace.federation.samples.targets
        counts = np.bincount(np.asarray(targets)[rows], minlength=samples.num_classes).astype(np.int64)
        given = np.isin(rows, federation.unlabelled.indices)
        with np.errstate(over="ignore"):
            numbers = known[rows] + np.where(given, targets[rows] + 1, 0).astype(np.uint64) * GAMMA
        return Cohort(numbers, counts, len(index))
    return Cohort(known[rows], counts, len(index))


@functools.lru_cache(maxsize=4)
def _fingerprints(members: Members) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each sample's digest as a number, `(num_samples,)`; read once, it takes a while."""
    digests = np.ascontiguousarray(members.workspace.federation.samples.inputs.digests()[:, :8])
    return digests.view(np.uint64).reshape(-1)
