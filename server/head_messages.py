"""Messages that carry the global head: to train it, and to evaluate it; one a shard and host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message

from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.wire.records import array_record, pack
from fedgraft.wire.requests import EvaluateRequest, HalfSettings, StateSettings, TrainRequest
from server.roster import Call
from strategies.base import Request, Strategy


@dataclass(frozen=True)
class HeadMessages:
    """Messages about the head of a round.

    Attributes:
        run_id: ours.
        weights_digest: of the run's backbone.
        round_number: the round.
        per_client: whether replies say what each client's scores are.
        alignment: what hosts bring features onto; None: they are left as they are.
        task_number: the task, where classes arrive task by task.
        pseudo_labels: how clients that train label their own samples without labels; None: these are left out.
    """

    run_id: str
    weights_digest: str
    round_number: int
    per_client: bool
    alignment: ArrayRecord | None = None
    task_number: int = 0
    pseudo_labels: PseudoLabelSettings | None = None

    def train(
        self,
        strategy: Strategy,
        request: Request,
        head: ArrayRecord,
        calls: Sequence[Call],
        states: Sequence[StateSettings | None],
        evaluate: bool,
    ) -> list[Message]:
        """Return the messages that have clients train.

        Args:
            strategy: it says what replies carry.
            request: the exchange.
            head: the global one.
            calls: whom to ask.
            states: the version of the clients' state for each call; None: the half keeps none.
            evaluate: whether replies carry the metrics of the head that was received.
        """
        extra = array_record(request.arrays) if request.arrays else None
        bodies = [
            TrainRequest(
                run_id=self.run_id,
                weights_digest=self.weights_digest,
                round_number=self.round_number,
                shard=call.shard,
                task_number=self.task_number,
                pseudo_labels=self.pseudo_labels,
                half=_half(request),
                state=state,
                reply=strategy.reply,
                sums=request.sums,
                scalars=request.scalars,
                loss_power=request.loss_power,
                smoothing=request.smoothing,
                again=request.again,
                evaluate=evaluate and not request.again,
                per_client=(self.per_client and not request.again) or strategy.reply == "stack",
            )
            for call, state in zip(calls, states, strict=True)
        ]
        return self._messages("train", calls, bodies, head, extra)

    def evaluate(
        self, personal: Request | None, head: ArrayRecord, calls: Sequence[Call], versions: Sequence[int]
    ) -> list[Message]:
        """Return the messages that have clients evaluate a head, and their own.

        Args:
            personal: how each client has a head of its own; None: there are none.
            head: the global one.
            calls: whom to ask.
            versions: of the clients' state, for each call.
        """
        extra = array_record(personal.arrays) if personal is not None and personal.arrays else None
        bodies = [
            EvaluateRequest(
                run_id=self.run_id,
                weights_digest=self.weights_digest,
                round_number=self.round_number,
                shard=call.shard,
                task_number=self.task_number,
                per_client=self.per_client,
                personal=None if personal is None else _half(personal),
                state_version=version,
            )
            for call, version in zip(calls, versions, strict=True)
        ]
        return self._messages("evaluate", calls, bodies, head, extra)

    def _messages(
        self,
        kind: str,
        calls: Sequence[Call],
        bodies: Sequence[TrainRequest] | Sequence[EvaluateRequest],
        head: ArrayRecord,
        extra: ArrayRecord | None,
    ) -> list[Message]:
        messages = []
        for call, body in zip(calls, bodies, strict=True):
            record = pack(body, {"clients": {"index": call.index}})
            # packed once and the same in every message, so that a grid can send it once
            record["head"] = head
            if self.alignment is not None:
                record["alignment"] = self.alignment
            if extra is not None:
                record["extra"] = extra
            messages.append(Message(record, dst_node_id=call.node, message_type=kind, group_id=str(self.round_number)))
        return messages


def _half(request: Request) -> HalfSettings:
    return HalfSettings(name=request.half.name, parameters=dict(request.half.parameters))
