"""The answer to a request to evaluate: the head that was received, and the clients' own heads."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from clients.halves import HALVES, kind_of
from clients.label_shift import LABEL_SHIFT, corrected
from clients.members import Asked, Groups, Members, joined
from clients.norm import STATE as NORM
from clients.norm import evaluate_own, local_norm
from clients.personal.cohort import Evaluation, PersonalCohort
from clients.state.runs import RunStates
from fedgraft.errors import WireError, listed
from fedgraft.evaluation import evaluate_rows
from fedgraft.threads import numpy_threads, torch_threads
from fedgraft.wire.requests import EvaluateReply, EvaluateRequest


class EvaluateAnswers:
    """Answers `evaluate` for a host.

    Args:
        members: the host's clients.
        states: their state.
    """

    def __init__(self, members: Members, states: RunStates) -> None:
        self._members, self._states = members, states

    def answer(self, request: EvaluateRequest, groups: Groups, folder: Path | None) -> tuple[EvaluateReply, Groups]:
        """Evaluate a head on the validation parts of the clients that the request names, and their own heads.

        Args:
            request: what is asked for.
            groups: its arrays.
            folder: where the run's client state lies; None: in memory only.
        """
        started = time.perf_counter()
        asked = self._members.asked(request.weights_digest, groups, request.round_number)
        with torch_threads(1):
            own = self._own(request, groups, asked, folder)
        out: Groups = {}
        if own is not None:
            out["metrics"], per_client = evaluate_received(self._members, asked, with_confidence=True)
            if request.personal is not None:
                out["personal"], columns = own
                per_client |= columns
            if request.per_client:
                out["clients"] = {"index": asked.index} | per_client
        body = EvaluateReply(
            round_number=request.round_number,
            shard=request.shard,
            num_clients=len(asked.index),
            seconds=time.perf_counter() - started,
            has_state=own is not None,
        )
        return body, out

    def _own(self, request: EvaluateRequest, groups: Groups, asked: Asked, folder: Path | None) -> Evaluation | None:
        """Evaluate the clients' own heads, where there are some; None if their state is not here."""
        half, members = request.personal, self._members
        if half is None:
            return {}, {}
        if half.name == LABEL_SHIFT:
            with torch_threads(members.threads):
                return corrected(members, asked, groups.get("extra", {}), half.parameters)
        kind, cohort = kind_of(half), PersonalCohort(members, asked, with_confidence=True)
        if kind.personal == "none":
            raise WireError(
                f"the request asks for own heads of the half {half.name!r}, which makes none; "
                f"those that do are {listed(name for name, other in HALVES.items() if other.personal != 'none')}"
            )
        if kind.personal == "fine_tuned":
            return cohort.fine_tuned(members.task(members.part.last_round), int(half.parameters["epochs"]))
        if kind.personal == "blended":
            with numpy_threads(members.threads):
                return cohort.blended(groups.get("extra", {}), half.parameters)
        states = self._states.of(request, half.name, asked, folder)
        if not states.start_from(request.shard, request.state_version):
            return None
        if kind.personal == "normed":
            return evaluate_own(members, asked, local_norm(asked, states.tables[NORM]), with_confidence=True)
        return cohort.evaluate(cohort.own_heads(states, kind.layers).of)


def evaluate_received(members: Members, asked: Asked, with_confidence: bool = False) -> Evaluation:
    """Return metric sums over the clients' validation parts, and each client's own loss and score.

    Args:
        members: all clients of the host.
        asked: the head, and which clients.
        with_confidence: whether to sum also, of classes, how sure the head is.
    """
    federation, num_clients = members.workspace.federation, len(asked.index)
    rows, owners = joined(federation.validation, members.clients[asked.index])
    targets, objective = federation.samples.targets, asked.objective
    device = members.device if objective.blocks is None else None
    result = evaluate_rows(
        asked.features, targets, rows, asked.head, objective, members.threads, device, with_confidence
    )
    count = np.bincount(owners, minlength=num_clients)
    some = np.maximum(count, 1)
    per_client = {
        "num_validation": count,
        "validation_loss": np.bincount(owners, result.losses, minlength=num_clients) / some,
        "validation_score": np.bincount(owners, result.scores, minlength=num_clients) / some,
    }
    return dict(result.sums), per_client
