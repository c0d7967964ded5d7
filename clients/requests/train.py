"""The answer to a request to train."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients.halves import HALVES, kind_of
from clients.members import Asked, Groups, Members
from clients.pseudo_labels import COUNTS, labelled
from clients.replies import NEAR, StackReply, SumReply, Terms
from clients.requests.kept_answers import Answer, KeptAnswers
from clients.requests.kept_updates import KeptUpdates
from clients.requests.local_round import LocalRound
from clients.state.runs import RunStates
from clients.state.versions import ClientStates
from fedgraft.errors import WireError, listed
from fedgraft.threads import torch_threads
from fedgraft.wire.records import expect
from fedgraft.wire.requests import TrainReply, TrainRequest


class TrainAnswers:
    """Answers `train` for a host; a request that keeps client state changes it once, however often it comes.

    Args:
        members: the host's clients.
        states: their state.
    """

    def __init__(self, members: Members, states: RunStates) -> None:
        self._members, self._states, self._kept, self._updates = members, states, KeptAnswers(), KeptUpdates()

    def answer(self, request: TrainRequest, groups: Groups, folder: Path | None) -> tuple[TrainReply, Groups]:
        """Train the clients that the request names, and evaluate the head that was received.

        Args:
            request: what is asked for.
            groups: its arrays.
            folder: where the run's client state lies; None: in memory only.
        """
        started = time.perf_counter()
        members = self._members
        asked = members.asked(request.weights_digest, groups, request.round_number)
        states, shared = self._state_of(request, asked, folder), _shared(request, groups, asked)
        if request.pseudo_labels is not None:
            if states is not None:
                raise WireError(
                    "the request asks for pseudo-labels and for state of clients, which is of their samples"
                )
            found = labelled(members, request.pseudo_labels, asked.head, asked.features, asked.objective, asked.index)
            body, out = _trained(LocalRound(found.members, request, asked, None, shared, self._updates), started)
            return body, {**out, COUNTS: found.counts}
        if states is None or request.state is None:
            return _trained(LocalRound(members, request, asked, None, shared, self._updates), started)
        again = self._kept.to(request, groups)
        # Asked again, since an answer was lost or late: the state has changed already, and must not change twice.
        if again is not None and states.is_at(request.shard, request.state.becomes):
            return again.body, again.groups
        if not states.start_from(request.shard, request.state.version):
            return _without_state(request, len(asked.index), started), {}
        becoming = states.becoming(request.shard, request.state.becomes)
        with becoming if len(asked.index) else contextlib.nullcontext():
            body, out = _trained(LocalRound(members, request, asked, states, shared, self._updates), started)
        if request.state.keep:
            states.keep(request.shard)
        if request.state.pass_on:
            states.pass_on(request.shard)
        self._kept.keep(Answer(request, groups, body, out))
        return body, out

    def _state_of(self, request: TrainRequest, asked: Asked, folder: Path | None) -> ClientStates | None:
        """Return the run's client state for the half that is asked for; None if it keeps none."""
        name, kinds = request.half.name, kind_of(request.half).state
        if bool(kinds) != (request.state is not None):
            says, has = ("a", "none") if request.state else ("no", "some")
            raise WireError(
                f"the request names {says} version of client state, but the half {name!r} keeps {has}; "
                "see Request.keeps_state of the strategy"
            )
        given = dict.fromkeys(state for half in HALVES.values() for state in half.state if state not in kinds)
        if not_given := [state for state in given if state in request.sums]:
            raise WireError(
                f"the strategy asks for the sum {listed(not_given)}, which its client half {name!r} does not give; "
                f"ask for it with {listed(other for other, half in HALVES.items() if not_given[0] in half.state)}"
            )
        return self._states.of(request, name, asked, folder) if kinds else None


def _shared(request: TrainRequest, groups: Groups, asked: Asked) -> dict[str, dict[str, NDArray[Any]]]:
    """Return what the half, and sums by nearness, have from the server: groups of arrays of the head's shapes."""
    near = NEAR & {*request.sums, *request.scalars}
    if near and (not request.smoothing or request.state is not None):
        raise WireError(
            f"the strategy asks for {listed(sorted(near))} with smoothing {request.smoothing:g} of the half "
            f"{request.half.name!r}; they need a smoothing above 0, and a half that keeps no state"
        )
    names = (*kind_of(request.half).shared, *(("point",) if near else ()))
    shapes = {f"{group}.{name}": shape for group in names for name, shape in asked.shapes.items()}
    extra = groups.get("extra", {})
    expect(extra, shapes, f"the request's arrays for the half {request.half.name!r}", np.dtype(np.float32))
    return {group: {name: extra[f"{group}.{name}"] for name in asked.head} for group in names}


def _trained(local: LocalRound, started: float) -> tuple[TrainReply, Groups]:
    """Evaluate and train, into a reply."""
    request, asked = local.request, local.asked
    reply: SumReply | StackReply
    if request.reply == "stack":
        reply = StackReply(len(asked.index), asked.shapes)
    else:
        point = local.shared.get("point", {})
        terms = Terms(local.solver, request.loss_power, point, request.smoothing)
        reply = SumReply(request.sums, request.scalars, asked.shapes, terms)
    with torch_threads(1):  # the host's own threads are side by side, each on one thread of torch
        evaluated, columns = local.evaluated()
        per_client = local.train_into(reply)
        out = reply.groups() | evaluated
        per_client |= columns
    counted = per_client["num_train"] > 0
    out.setdefault("metrics", {})["train_loss"] = np.array(
        float((per_client["train_loss"] * per_client["num_train"])[counted].sum())
    )
    out["metrics"]["train_count"] = np.array(float(per_client["num_train"].sum()))
    if request.per_client:
        out["clients"] = per_client
    body = TrainReply(
        round_number=request.round_number,
        shard=request.shard,
        num_clients=len(asked.index),
        scalars=reply.numbers,
        seconds=time.perf_counter() - started,
    )
    return body, out


def _without_state(request: TrainRequest, num_clients: int, started: float) -> TrainReply:
    """Return the reply of a host that does not have the clients' state of the version that is named."""
    return TrainReply(
        round_number=request.round_number,
        shard=request.shard,
        num_clients=num_clients,
        scalars={},
        seconds=time.perf_counter() - started,
        has_state=False,
    )
