"""A host: a process that speaks for one or more clients, and the requests that it answers for them.

It stays resident between messages.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.members import Groups, Members
from clients.requests.evaluate import EvaluateAnswers
from clients.requests.queries import Queries
from clients.requests.train import TrainAnswers
from clients.settings import ClientPart
from clients.state.runs import RunStates
from fedgraft import __version__
from fedgraft.compute_settings import Device
from fedgraft.models import kept
from fedgraft.stages import stage_of
from fedgraft.wire.protocol import code_digest
from fedgraft.wire.requests import (
    BackboneReply,
    BackboneRequest,
    ClassSumsReply,
    ClassSumsRequest,
    ClustersReply,
    ClustersRequest,
    CrossValidateReply,
    CrossValidateRequest,
    Description,
    EvaluateReply,
    EvaluateRequest,
    LeaveOutReply,
    LeaveOutRequest,
    MixturesReply,
    MixturesRequest,
    MomentsReply,
    MomentsRequest,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
)
from fedgraft.workspace import open_workspace


class Host:
    """Speaks for the clients of one host of a simulation; `clients.requests` has how it answers.

    Args:
        part: what the client side reads of the scenario.
        number: this host's number, from 0.
        num_hosts: how many hosts the simulation has.
        threads: groups of clients that train side by side, and chunks of rows that are evaluated side by side.
        feature_dim: length of a feature vector, as the run's own process found it; 0: not known.
        device: what trains and evaluates heads.

    Raises:
        LaunchError: the device is `cuda`, and this process sees none.
    """

    def __init__(
        self,
        part: ClientPart,
        number: int,
        num_hosts: int,
        threads: int = 1,
        feature_dim: int = 0,
        device: Device = "auto",
    ) -> None:
        self.num_hosts = num_hosts
        self.members = Members(part, number, num_hosts, threads, feature_dim, device)
        self._stages = part.in_stages()
        self._in_stage = StageAnswers(0, self.members.in_stage(self._stages[0]))
        self._queries = Queries(self.members)

    def describe(self) -> tuple[Description, Groups]:
        """Return which clients this host speaks for, and what it has."""
        members = self.members
        members.take_task(0)
        federation = members.workspace.federation
        samples, unlabelled = federation.samples, federation.unlabelled.counts
        description = Description(
            code_digest=code_digest(),
            release=__version__,
            task=samples.task,
            num_hosts=self.num_hosts,
            label_names=tuple(samples.label_names),
            feature_dim=samples.features().shape[1] if samples.kind == "features" else 0,
            backbone_digests=tuple(members.own_digests()),
            feature_names=samples.feature_names,
            host_costs=tuple(members.placement.host_costs.tolist()) if self.num_hosts > 1 else (),
        )
        clients: dict[str, NDArray[Any]] = {
            "names": np.frombuffer("\n".join(members.names).encode(), dtype=np.uint8),
            "num_train": federation.train.counts[members.clients],
            "num_validation": federation.validation.counts[members.clients],
            **members.task_counts(),
            **({"num_unlabelled": unlabelled[members.clients]} if unlabelled.any() else {}),
        }
        return description, {"clients": clients}

    def backbone(self, request: BackboneRequest, groups: Groups) -> BackboneReply:
        """Take the manifest of the run's backbone; keep its weights if they came and their digest matches."""
        if request.carries_weights:
            kept.keep(groups.get("weights", {}), request.weights_digest)
        return BackboneReply(has_weights=request.weights_digest in self.members.own_digests())

    def train(
        self, request: TrainRequest, groups: Groups, state_folder: Path | None = None
    ) -> tuple[TrainReply, Groups]:
        """Train the clients that the request names, and evaluate the head that was received.

        Args:
            request: what is asked for.
            groups: its arrays.
            state_folder: where the run's client state lies; None: in memory only.
        """
        stage = self._of(request.round_number)
        return stage.training.answer(request, groups, self._folder(stage, state_folder))

    def evaluate(
        self, request: EvaluateRequest, groups: Groups, state_folder: Path | None = None
    ) -> tuple[EvaluateReply, Groups]:
        """Evaluate a head on the validation parts of the clients that the request names, and their own heads.

        Args:
            request: what is asked for.
            groups: its arrays.
            state_folder: where the run's client state lies; None: in memory only.
        """
        stage = self._of(request.round_number)
        return stage.evaluation.answer(request, groups, self._folder(stage, state_folder))

    def _of(self, round_number: int) -> StageAnswers:
        """Return who answers in the stage of a round; of others nothing is kept in memory."""
        number = stage_of([part.last_round for part in self._stages], round_number)
        if number != self._in_stage.number:
            self._in_stage = StageAnswers(number, self._in_stage.members.in_stage(self._stages[number]))
        return self._in_stage

    def _folder(self, stage: StageAnswers, folder: Path | None) -> Path | None:
        """Return where client state lies: in each stage it begins anew, so that each has a folder of its own."""
        return folder if folder is None or len(self._stages) == 1 else folder / f"stage-{stage.number + 1}"

    def moments(self, request: MomentsRequest, groups: Groups) -> tuple[MomentsReply, Groups]:
        """Return moments of the training samples of the clients that the request names, without their labels."""
        return self._queries.moments(request, groups)

    def clusters(self, request: ClustersRequest, groups: Groups) -> tuple[ClustersReply, Groups]:
        """Return sums over the training samples that are nearest to each of the centres that came."""
        return self._queries.clusters(request, groups)

    def statistics(self, request: StatisticsRequest, groups: Groups) -> tuple[StatisticsReply, Groups]:
        """Return sums over the training samples of the clients that the request names."""
        return self._queries.statistics(request, groups)

    def class_sums(self, request: ClassSumsRequest, groups: Groups) -> tuple[ClassSumsReply, Groups]:
        """Return each named client's counts and summed features by class."""
        return self._queries.class_sums(request, groups)

    def mixtures(self, request: MixturesRequest, groups: Groups) -> tuple[MixturesReply, Groups]:
        """Fit Gaussian mixtures to each named client's features of each class."""
        return self._queries.mixtures(request, groups)

    def cross_validate(self, request: CrossValidateRequest, groups: Groups) -> tuple[CrossValidateReply, Groups]:
        """Predict each named client's training samples with heads that lack that client, and count."""
        return self._queries.cross_validate(request, groups)

    def leave_out(self, request: LeaveOutRequest, groups: Groups) -> tuple[LeaveOutReply, Groups]:
        """Make the head without each named client in turn."""
        return self._queries.leave_out(request, groups)


class StageAnswers:
    """What answers to train and to evaluate in one stage, with the state that clients keep in it.

    Args:
        number: of the stage, from 0.
        members: the host's clients, under the stage's settings.
    """

    def __init__(self, number: int, members: Members) -> None:
        self.number, self.members = number, members
        states = RunStates(members)
        self.training = TrainAnswers(members, states)
        self.evaluation = EvaluateAnswers(members, states)


@functools.lru_cache(maxsize=64)
def resident_host(
    scenario_json: str,
    number: int,
    num_hosts: int,
    threads: int,
    is_simulated: bool = True,
    feature_dim: int = 0,
    device: Device = "auto",
) -> Host:
    """Return this process's host for a scenario; it stays for the messages to come.

    Raises:
        ScenarioError: a site is asked to do what only a simulation may.
    """
    part = ClientPart.model_validate_json(scenario_json)
    if not is_simulated:
        part.check_for_a_site()
    return Host(part, number, num_hosts, threads, feature_dim, device)


def forget_hosts() -> None:
    """Drop every resident host and workspace, so that changed files are read anew."""
    resident_host.cache_clear()
    open_workspace.cache_clear()
