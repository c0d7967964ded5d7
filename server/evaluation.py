"""Evaluation on the central test part, where the data have one."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.alignment.settings import AdaBn, AlignSettings
from fedgraft.data.tasks import Tasks, at_task
from fedgraft.evaluation import Evaluated, Objective, evaluate_rows
from fedgraft.metrics import Sums
from fedgraft.models.unfreeze_settings import UnfreezeSettings
from fedgraft.threads import numpy_threads
from fedgraft.wire.records import Arrays
from fedgraft.workspace import Workspace


@dataclass(frozen=True, eq=False)
class CentralAlignment:
    """How the features of the test part are aligned: its groups are domains of their own, or it is one."""

    settings: AlignSettings
    ground: Arrays

    def of(self, workspace: Workspace, threads: int) -> NDArray[Any]:
        """Return features in which the test part's rows are aligned; `threads` of NumPy's linear algebra do it."""
        from fedgraft.alignment.aligned import aligned, domains_of_test

        if isinstance(self.settings, AdaBn):
            return workspace.adapted(self.settings)
        with numpy_threads(threads):
            return aligned(workspace.features, self.settings, self.ground, domains_of_test(workspace.federation))


class CentralTest:
    """The test part that was held out before the split; the same for every round."""

    def __init__(
        self,
        workspace: Workspace,
        objective: Objective,
        threads: int,
        unfreeze: UnfreezeSettings | None = None,
        alignment: CentralAlignment | None = None,
    ) -> None:
        self._alignment = alignment
        self._workspace = workspace
        self.unfreeze = unfreeze
        """How blocks are trained, in the stage that the run is in."""
        self._whole = workspace.federation
        self._objective = objective
        self._threads = threads

    def take_task(self, tasks: Tasks, number: int) -> None:
        """Test on samples of the classes that have come until a task (from 1)."""
        self._workspace = self._workspace.with_federation(at_task(self._whole, tasks, number))

    @property
    def num_samples(self) -> int:
        """Samples of the test part; 0 if there is none."""
        return len(self._workspace.federation.test)

    @functools.cached_property
    def features(self) -> NDArray[Any]:
        """Features of all samples, aligned where the scenario aligns them; then only the test part's rows are there."""
        return (
            self._workspace.features if self._alignment is None else self._alignment.of(self._workspace, self._threads)
        )

    def evaluate(self, head: Arrays, cut: str | None = None, offset: tuple[float, ...] | None = None) -> Sums:
        """Return metric sums of a head over the test part.

        Args:
            head: its arrays.
            cut: with the blocks past it.
            offset: what is added to its outputs.
        """
        return self._evaluated(head, cut, with_confidence=True, offset=offset).sums

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

    def _evaluated(
        self,
        head: Arrays,
        cut: str | None,
        with_confidence: bool = False,
        offset: tuple[float, ...] | None = None,
    ) -> Evaluated:
        federation, objective = self._workspace.federation, replace(self._objective, offset=offset)
        if cut is None:
            inputs = self.features
        else:
            unfrozen = self._workspace.unfrozen(cut, self.unfreeze)
            inputs, objective = unfrozen.activations, replace(objective, blocks=unfrozen.blocks)
        targets, rows = federation.samples.targets, federation.test
        return evaluate_rows(inputs, targets, rows, head, objective, self._threads, with_confidence=with_confidence)
