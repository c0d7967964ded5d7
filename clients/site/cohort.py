"""Which samples statistics would be of, for the policy."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from clients.members import Groups, Members
from clients.site.policy import Cohort


def cohort_of(members: Members, groups: Groups) -> Cohort:
    """Return the training samples of the clients that a request names.

    A sample is known by its content, so that it stays the same whatever its file or place, and whichever run asks.

    Raises:
        WireError: the request names no clients of this site.
    """
    index = members.index(groups)
    parts = members.training_rows(index)
    rows = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    samples = members.workspace.federation.samples
    counts = None
    if samples.task == "classes":
        counts = np.bincount(np.asarray(samples.targets)[rows], minlength=samples.num_classes).astype(np.int64)
    return Cohort(_fingerprints(members)[rows], counts, len(index))


@functools.lru_cache(maxsize=4)
def _fingerprints(members: Members) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each sample's digest as a number, `(num_samples,)`; read once, it takes a while."""
    digests = np.ascontiguousarray(members.workspace.federation.samples.inputs.digests()[:, :8])
    return digests.view(np.uint64).reshape(-1)
