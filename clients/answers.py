"""What a host answers to each kind of message; the same in a simulation and at a site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import RecordDict

from fedgraft.errors import WireError, listed
from fedgraft.settings import Settings
from fedgraft.wire.records import unpack
from fedgraft.wire.requests import (
    BackboneRequest,
    ClassSumsRequest,
    ClientsRequest,
    ClustersRequest,
    CrossValidateRequest,
    DescribeRequest,
    EvaluateRequest,
    LeaveOutRequest,
    MixturesRequest,
    MomentsRequest,
    StatisticsRequest,
    TrainRequest,
)

if TYPE_CHECKING:
    from clients.host import Host
    from clients.members import Groups

    Answer = Callable[[Host, Any, Groups, Path | None], tuple[Settings, Groups]]

REQUESTS: Mapping[str, type[Settings]] = {
    "query.describe": DescribeRequest,
    "query.backbone": BackboneRequest,
    "train": TrainRequest,
    "evaluate": EvaluateRequest,
    "query.moments": MomentsRequest,
    "query.clusters": ClustersRequest,
    "query.statistics": StatisticsRequest,
    "query.class_sums": ClassSumsRequest,
    "query.cross_validate": CrossValidateRequest,
    "query.leave_out": LeaveOutRequest,
    "query.mixtures": MixturesRequest,
}
"""The kinds of messages, by Flower's message type, and the body of each."""

_ANSWERS: Mapping[str, Answer] = {
    "query.describe": lambda host, request, groups, folder: host.describe(),
    "query.backbone": lambda host, request, groups, folder: (host.backbone(request, groups), {}),
    "train": lambda host, request, groups, folder: host.train(request, groups, folder),
    "evaluate": lambda host, request, groups, folder: host.evaluate(request, groups, folder),
    "query.moments": lambda host, request, groups, folder: host.moments(request, groups),
    "query.clusters": lambda host, request, groups, folder: host.clusters(request, groups),
    "query.statistics": lambda host, request, groups, folder: host.statistics(request, groups),
    "query.class_sums": lambda host, request, groups, folder: host.class_sums(request, groups),
    "query.cross_validate": lambda host, request, groups, folder: host.cross_validate(request, groups),
    "query.leave_out": lambda host, request, groups, folder: host.leave_out(request, groups),
    "query.mixtures": lambda host, request, groups, folder: host.mixtures(request, groups),
}


def read_request(kind: str, record: RecordDict) -> tuple[Settings, Groups]:
    """Return the body and the arrays of a request, checked.

    Raises:
        WireError: this release does not know such a request, or it is not what it should be.
    """
    if kind not in REQUESTS:
        raise WireError(f"came a request '{kind}', this release of FedGraft knows {listed(REQUESTS)}")
    return unpack(record, REQUESTS[kind], f"request {kind}")


def answer(
    host: Host, kind: str, request: Settings, groups: Groups, state_folder: Path | None
) -> tuple[Settings, Groups]:
    """Return what a host answers to a request.

    Args:
        host: who answers.
        kind: Flower's message type.
        request: the body, as `read_request` gave it.
        groups: its arrays.
        state_folder: where the run's client state lies; None: in memory only.
    """
    if isinstance(request, ClientsRequest):
        host.members.take_task(request.task_number)
    return _ANSWERS[kind](host, request, groups, state_folder)
