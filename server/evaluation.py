"""Evaluation on the central test part, where the data have one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedgraft.evaluation import Evaluated, Objective, evaluate_rows
from fedgraft.metrics import Sums
from fedgraft.wire.records import Arrays
from fedgraft.workspace import Workspace


class CentralTest:
    """The test part that was held out before the split; the same for every round."""

    def __init__(self, workspace: Workspace, objective: Objective, threads: int, local_norm: bool = False) -> None:
        self._workspace, self._local_norm = workspace, local_norm
        self._objective = objective
        self._threads = threads

    @property
    def num_samples(self) -> int:
        """Samples of the test part; 0 if there is none."""
        return len(self._workspace.federation.test)

    def evaluate(self, head: Arrays, cut: str | None = None) -> Sums:
        """Return metric sums of a head over the test part; with a cut, of the blocks past it and the head."""
        return self._evaluated(head, cut, with_confidence=True).sums

    def by_group(self, head: Arrays, cut: str | None = None) -> dict[str, tuple[int, float]]:
        """Return the samples of each group of the test part, and the sum of their scores; empty without groups.

        A score is that of `fedgraft.metrics.sample_scores`: right or not, for classes.
        """
        federation = self._workspace.federation
        if federation.samples.group is None or not self.num_samples:
            return {}
        scores = self._evaluated(head, cut).scores
        names, places = np.unique(federation.samples.group[federation.test], return_inverse=True)
        counts, sums = np.bincount(places), np.bincount(places, scores)
        return {str(name): (int(count), float(total)) for name, count, total in zip(names, counts, sums, strict=True)}

    def _evaluated(self, head: Arrays, cut: str | None, with_confidence: bool = False) -> Evaluated:
        federation, objective = self._workspace.federation, self._objective
        if cut is None:
            inputs = self._workspace.features
        else:
            unfrozen = self._workspace.unfrozen(cut, self._local_norm)
            inputs, objective = unfrozen.activations, replace(objective, blocks=unfrozen.blocks)
        targets, rows = federation.samples.targets, federation.test
        return evaluate_rows(inputs, targets, rows, head, objective, self._threads, with_confidence=with_confidence)
