"""The adapter: makes any of our strategies a Flower `Strategy`, whose messages go to hosts, not to clients.

`configure_train` turns the strategy's plan into one message a shard and host; `aggregate_train` checks the
replies, adds the shards' sums in float64 in shard order, and asks the strategy for the next head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, MetricRecordValues
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlwrStrategy
from numpy.typing import NDArray

from fedgraft.closed_form import regression_moments
from fedgraft.errors import TrainingError, WireError, listed
from fedgraft.evaluation import Objective
from fedgraft.metrics import Sums, add_sums, metric_shapes, over_clients, summarise
from fedgraft.models.losses import Task
from fedgraft.wire.records import Arrays, array_record, expect, pack
from fedgraft.wire.requests import (
    EvaluateReply,
    EvaluateRequest,
    HalfSettings,
    StateSettings,
    TrainReply,
    TrainRequest,
)
from server.attendance import Attendance, Present
from server.contribution import combine_leave_out, leave_out_rows
from server.exchange import StateLostError
from server.mixtures import combine_mixtures
from server.replies import in_order, unpacked_replies
from server.roster import Call, Roster
from server.settings import EvaluationSettings, ServerSettings
from server.statistics import Questions
from server.sums import combine_class_sums, combine_cross_validation, combine_statistics
from strategies.base import (
    ClassSums,
    CrossValidate,
    Exchange,
    LeaveOut,
    Mixtures,
    Replies,
    Request,
    Statistics,
    Strategy,
)

CLIENT_ARRAYS = (
    "num_train",
    "steps",
    "train_loss",
    "train_loss_before",
    "train_loss_after",
    "train_score",
    "num_validation",
    "validation_loss",
    "validation_score",
    "personal_loss",
    "personal_score",
)

PHASES: Mapping[type[Exchange], str] = {
    Statistics: "statistics",
    ClassSums: "class_sums",
    Mixtures: "mixtures",
    CrossValidate: "cross_validate",
    LeaveOut: "leave_out",
}
"""What seconds of an exchange are booked on; all others are training."""


@dataclass
class RoundRecord:
    """What the replies of one exchange said beside the updates.

    Attributes:
        clients: positions in the roster, `(num,)`, ascending.
        metrics: metric sums of the head that was sent, over the clients' validation parts.
        personal: the same of the clients' own heads, where they have some.
        train_loss: mean over the training samples of the clients' mean losses.
        per_client: `(num,)` arrays of `CLIENT_ARRAYS`, as far as they were asked for.
    """

    clients: NDArray[np.int64]
    metrics: Sums = field(default_factory=dict)
    personal: Sums = field(default_factory=dict)
    train_loss: float | None = None
    per_client: dict[str, NDArray[Any]] = field(default_factory=dict)

    def summarised(self, group: Literal["validation", "personal"], task: Task) -> dict[str, float]:
        """Return the metrics of the head that was sent, or of the clients' own; empty where no sample was seen.

        With each client's score at hand, also how these are spread over the clients.
        """
        sums = self.metrics if group == "validation" else self.personal
        if not sums or not float(sums["count"]):
            return {}
        scores, counts = self.per_client.get(f"{group}_score"), self.per_client.get("num_validation")
        spread = {} if scores is None or counts is None else over_clients(scores, counts, task)
        return summarise(sums, task) | spread


class PackedStrategy(FlwrStrategy):
    """A Flower strategy around one of ours.

    Args:
        strategy: the pure strategy.
        roster: the clients and their hosts.
        server: rounds and how many clients take part.
        evaluation: how often and how finely to evaluate.
        objective: head, loss and task.
        run_id: ours.
        seed: the scenario's.
        weights_digest: of the run's backbone.
        feature_dim: features a sample.
        attendance: who comes; default: everybody that a round asks.
    """

    def __init__(
        self,
        strategy: Strategy,
        roster: Roster,
        server: ServerSettings,
        evaluation: EvaluationSettings,
        objective: Objective,
        run_id: str,
        seed: int,
        weights_digest: str,
        feature_dim: int,
        attendance: Attendance | None = None,
    ) -> None:
        self.attendance = attendance or Attendance(None, seed, roster.names, roster.num_train)
        self.strategy = strategy
        self.roster = roster
        self.server = server
        self.evaluation = evaluation
        self.objective = objective
        self.run_id = run_id
        self.weights_digest = weights_digest
        self._questions = Questions(roster, run_id, weights_digest, feature_dim)
        self.head: Arrays = {}
        self.state: Arrays | None = None
        self.record: RoundRecord | None = None
        self.without: Arrays = {}
        """Heads without each client of the round, `(num_clients, *shape)`, after one that asked for them."""
        self.busy_seconds: dict[int, float] = {}
        """Seconds that each host, by node, has spent on its messages."""
        self._plan: tuple[Exchange, ...] = ()
        self._calls: list[Call] = []
        self._gathered: list[Replies] = []
        self.versions = np.zeros(len(roster.names), dtype=np.int64)
        """The version of each client's state, which is that of its shard at its host; see `StateSettings`."""

    def beside(self, strategy: Strategy) -> PackedStrategy:
        """Return the adapter of another strategy for the same clients, before its first round."""
        other = copy.copy(self)
        other.strategy, other.evaluation = strategy, self.evaluation.model_copy(update={"contribution": False})
        other.head, other.state, other.record, other.without = {}, None, None, {}
        other._plan, other._calls, other._gathered = (), [], []
        other.versions = np.zeros_like(self.versions)
        return other

    def go_back(self, state: Arrays, versions: NDArray[np.int64]) -> None:
        """Forget the round in progress; go on from what a checkpoint held."""
        self.state, self._plan, self._gathered = state, (), []
        self.versions = versions.copy() if len(versions) else np.zeros(len(self.roster.names), dtype=np.int64)

    def cohort(self, round_number: int) -> NDArray[np.int64]:
        """Return the clients of a round, ascending: a pure function of seed and round."""
        return self.present(round_number).clients

    def present(self, round_number: int) -> Present:
        """Return who takes part in a round, and who was asked in vain."""
        num_clients = len(self.roster.names)
        wanted = num_clients if self.strategy.everybody else self.server.cohort_size(num_clients)
        return self.attendance.present(round_number, wanted)

    def shortage(self, round_number: int) -> str | None:
        """Return why too few clients take part in a round for it to be had; None: there are enough.

        Only where availability is simulated: else that is a fault of the scenario.
        """
        if self.attendance.settings is None:
            return None
        present = self.present(round_number)
        few = int((self.roster.num_train[present.clients] > 0).sum())
        return self.attendance.shortage(present) or self.strategy.shortage(few)

    def evaluates_after(self, round_number: int) -> bool:
        """Return whether the head after a round (0: the start) is evaluated."""
        return round_number % self.evaluation.every == 0 or round_number == self.server.rounds

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of the next exchange of a round, one a shard and host."""
        if self.state is None:
            self.head = _numpy(arrays)
            self.state = self.strategy.init(self.head)
        if not self._plan:
            self.head = _numpy(arrays)
            self._plan = self.strategy.plan(self.state, server_round)
            if self.evaluation.contribution and self.strategy.leaves_out == "hosts":
                self._plan = (*self._plan, LeaveOut())
            self._gathered = []
        request = self._plan[len(self._gathered)]
        self._calls = self.roster.calls(self.cohort(server_round), to_all=self._keeps_now(server_round))
        if isinstance(request, Statistics):
            return self._questions.statistics(self._calls, request.second_moment)
        if isinstance(request, ClassSums):
            return self._questions.class_sums(self._calls)
        if isinstance(request, Mixtures):
            return self._questions.mixtures(self._calls, request.components, request.covariance)
        if isinstance(request, CrossValidate):
            moments, lambdas = self._penalties(request)
            return self._questions.cross_validate(self._calls, moments, lambdas, bias="bias" in self.head)
        if isinstance(request, LeaveOut):
            recipe = self.strategy.recipe(self.head, tuple(self._gathered))
            return self._questions.leave_out(self._calls, self._gathered[0].statistics, recipe, self.head)
        # packed once and the same in every message, so that a grid can send it once
        shared = {"head": arrays}
        if request.arrays:
            shared["extra"] = array_record(request.arrays)
        return [self._train_message(server_round, request, call, shared) for call in self._calls]

    def _keeps_now(self, round_number: int) -> bool:
        """Whether the exchange in progress is the round's last that changes client state, before a checkpoint.

        Then all hosts write what they have, also those whose clients do not take part.
        """
        left = [isinstance(request, Request) and request.keeps_state for request in self._plan[len(self._gathered) :]]
        return left[0] and not any(left[1:]) and self.server.saves_after(round_number)

    def _state_of(self, round_number: int, request: Request, call: Call) -> StateSettings | None:
        if not request.keeps_state:
            return None
        version = int(self.versions[self.roster.of(call)].max())
        becomes = int(self.versions.max()) + 1
        return StateSettings(version=version, becomes=becomes, keep=self._keeps_now(round_number))

    def _note_versions(self, request: Request) -> None:
        """Note which clients' state is a version further after an exchange."""
        if request.keeps_state:
            becomes = int(self.versions.max()) + 1
            for call in self._calls:
                if len(call.clients):
                    self.versions[self.roster.of(call)] = becomes

    def _penalties(self, request: CrossValidate) -> tuple[Arrays, tuple[float, ...]]:
        """Return the moments that the exchange before gave, and the penalties to try, absolute."""
        moments = regression_moments(self._gathered[-1].statistics, self.objective.task)
        mean = float(np.trace(moments["second_moment"])) / len(moments["second_moment"])
        return moments, tuple(factor * mean for factor in request.relative_penalties)

    def _train_message(
        self, round_number: int, request: Request, call: Call, shared: Mapping[str, ArrayRecord]
    ) -> Message:
        body = TrainRequest(
            run_id=self.run_id,
            weights_digest=self.weights_digest,
            round_number=round_number,
            shard=call.shard,
            half=HalfSettings(name=request.half.name, parameters=dict(request.half.parameters)),
            state=self._state_of(round_number, request, call),
            reply=self.strategy.reply,
            sums=request.sums,
            scalars=request.scalars,
            loss_power=request.loss_power,
            evaluate=self.evaluates_after(round_number - 1),
            per_client=self._asks_per_client or self.strategy.reply == "stack",
        )
        record = pack(body, {"clients": {"index": call.index}})
        record.update(shared)
        return Message(record, dst_node_id=call.node, message_type="train", group_id=str(round_number))

    @property
    def _asks_per_client(self) -> bool:
        """Whether replies say what each client's scores are: personal heads are judged by the worst ones too."""
        return self.evaluation.per_client or self.strategy.personal(self.state or {}) is not None

    @property
    def exchanges_left(self) -> bool:
        """Whether the round in progress asks for another exchange."""
        return bool(self._plan)

    @property
    def phase(self) -> str:
        """What the exchange in progress asks for; seconds are booked on it."""
        request = self._plan[len(self._gathered)]
        return PHASES.get(type(request), "train")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Combine the replies; after the round's last exchange return the next head.

        Raises:
            WireError: a reply is not what was asked for.
            TrainingError: the strategy can't combine these updates.
        """
        request = self._plan[len(self._gathered)]
        if isinstance(request, Request):
            gathered, record = self._combine(server_round, request, list(replies))
            self._note_versions(request)
        else:
            gathered, record = self._combine_sums(request, list(replies)), RoundRecord(self.cohort(server_round))
        self.record = record
        self._gathered.append(gathered)
        if len(self._gathered) < len(self._plan):
            return None, None
        try:
            outcome = self.strategy.aggregate(self.state or {}, self.head, tuple(self._gathered))
        except ValueError as error:  # a pure strategy has no other words for what it can't do
            raise TrainingError(f"strategy {self.strategy.title}, round {server_round}: {error}") from error
        self._leave_out(server_round)
        self.head, self.state, self._plan = dict(outcome.head), dict(outcome.state), ()
        metrics: dict[str, MetricRecordValues] = dict(outcome.metrics)
        if record.train_loss is not None:
            metrics["train_loss"] = record.train_loss
        return array_record(self.head), MetricRecord(metrics)

    def _leave_out(self, round_number: int) -> None:
        """Keep the heads without each client, if the scenario asks for them."""
        if not self.evaluation.contribution:
            return
        if self.strategy.leaves_out == "hosts":
            self.without = self._gathered[-1].stack
        else:
            state, clients = self.state or {}, self.cohort(round_number)
            self.without = leave_out_rows(self.strategy, state, self.head, self._gathered[0], clients)

    def _combine(self, round_number: int, request: Request, replies: Sequence[Message]) -> tuple[Replies, RoundRecord]:
        """Check the replies of one exchange and add them, in shard order, in float64."""
        unpacked = unpacked_replies(self._calls, round_number, replies, TrainReply)
        lacking = [call for call, (body, _) in zip(self._calls, unpacked, strict=True) if not body.has_state]
        if lacking and not request.keeps_state:
            raise WireError(f"round {round_number}: a host says that it lacks client state, which it was not asked for")
        if lacking:
            raise self._state_lost(round_number, lacking)
        shapes = {name: tuple(value.shape) for name, value in self.head.items()}
        stacked = self.strategy.reply == "stack"
        sums: dict[str, list[Arrays]] = {name: [] for name in request.sums}
        scalars = dict.fromkeys(request.scalars, 0.0)
        stacks, weights, groups_of_calls = [], [], []
        for call, (body, groups) in zip(self._calls, unpacked, strict=True):
            what = f"reply to train, shard {call.shard}"
            groups_of_calls.append(groups)
            self._note_busy(call, body.seconds)
            if stacked:
                expect(groups.get("stack"), {n: (len(call.clients), *s) for n, s in shapes.items()}, what)
                expect(groups.get("weights"), {"weight": (len(call.clients),)}, what)
                if "train_loss" not in groups.get("clients", {}):
                    raise WireError(f"{what} lacks clients.train_loss")
                stacks.append(groups["stack"])
                weights.append(groups["weights"]["weight"])
                continue
            if set(body.scalars) != set(scalars):
                raise WireError(f"{what} carries scalars {sorted(body.scalars)}, expected {sorted(scalars)}")
            for name, value in body.scalars.items():
                scalars[name] += value
            for name, parts in sums.items():
                expect(groups.get(name), shapes, f"{what}: {name}")
                parts.append(groups[name])
        clients = np.concatenate([call.clients for call in self._calls])
        order = np.argsort(clients)
        gathered = Replies(
            sums={name: add_sums(list(parts)) for name, parts in sums.items()} if not stacked else {},
            scalars=scalars if not stacked else {"weight": float(sum(weight.sum() for weight in weights))},
            num_clients=len(clients),
            stack={n: np.concatenate([stack[n] for stack in stacks])[order] for n in shapes} if stacked else {},
            weights=np.concatenate(weights)[order] if stacked else np.zeros(0),
            train_losses=self._column(groups_of_calls, "train_loss", order) if stacked else np.zeros(0),
            federation_clients=len(self.roster.names),
            federation_weight=float(self.roster.num_train.sum()),
        )
        return gathered, self._recorded(groups_of_calls, clients, order)

    def _state_lost(self, round_number: int, lacking: Sequence[Call]) -> StateLostError:
        shards = listed(str(call.shard) for call in lacking)
        return StateLostError(f"round {round_number}: the hosts of shards {shards} lack their clients' state")

    def _combine_sums(self, request: Exchange, replies: Sequence[Message]) -> Replies:
        """Check the replies to a question about sums and add them, in shard order, in float64."""
        ordered = in_order(self._calls, replies)
        roster, task = self.roster, self.objective.task
        num_clients = sum(len(call.clients) for call in self._calls)
        num_samples = int(sum(roster.num_train[call.clients].sum() for call in self._calls))
        facts: dict[str, Any] = {"num_clients": num_clients, "num_samples": num_samples, "task": task}
        if isinstance(request, Statistics):
            dim = self._questions.feature_dim
            facts["statistics"] = combine_statistics(self._calls, ordered, roster, dim, request.second_moment)
        elif isinstance(request, ClassSums):
            facts["statistics"] = combine_class_sums(self._calls, ordered, roster, self._questions.feature_dim)
        elif isinstance(request, Mixtures):
            dim, asked = self._questions.feature_dim, (request.components, request.covariance)
            facts["statistics"] = combine_mixtures(self._calls, ordered, roster, dim, *asked)
        elif isinstance(request, LeaveOut):
            facts["stack"] = combine_leave_out(self._calls, ordered, roster, self.head)
        elif isinstance(request, CrossValidate):
            lambdas = self._penalties(request)[1]
            tried = combine_cross_validation(self._calls, ordered, roster, lambdas)
            facts |= {"penalties": np.array(tried.lambdas), "scores": tried.scores, "num_samples": tried.num_samples}
        return Replies(sums={}, scalars={}, **facts)

    def _note_busy(self, call: Call, seconds: float) -> None:
        self.busy_seconds[call.node] = self.busy_seconds.get(call.node, 0.0) + seconds

    def _column(
        self, groups_of_calls: Sequence[Mapping[str, Arrays]], name: str, order: NDArray[np.int64]
    ) -> NDArray[Any]:
        return np.concatenate([groups["clients"][name] for groups in groups_of_calls])[order]

    def _recorded(
        self,
        groups_of_calls: Sequence[Mapping[str, Arrays]],
        clients: NDArray[np.int64],
        order: NDArray[np.int64],
    ) -> RoundRecord:
        """Return what the replies said beside the updates, in the order of the roster."""
        record = RoundRecord(clients[order])
        shapes = metric_shapes(self.objective.task, self.objective.num_outputs)
        metrics: list[Arrays] = []
        personal: list[Arrays] = []
        count = loss = 0.0
        for call, groups in zip(self._calls, groups_of_calls, strict=True):
            sums = dict(groups.get("metrics", {}))
            trained: Arrays = {name: sums.pop(name) for name in ("train_loss", "train_count") if name in sums}
            if trained:
                expect(trained, {"train_loss": (), "train_count": ()}, f"metrics of shard {call.shard}")
                loss, count = loss + float(trained["train_loss"]), count + float(trained["train_count"])
            if sums:
                expect(sums, shapes, f"metrics of shard {call.shard}")
                metrics.append(sums)
            if "personal" in groups:
                expect(groups["personal"], shapes, f"metrics of own heads of shard {call.shard}")
                personal.append(groups["personal"])
        for kind, parts in (("validation metrics", metrics), ("metrics of own heads", personal)):
            if parts and len(parts) < len(self._calls):
                raise WireError(f"only {len(parts)} of {len(self._calls)} replies carry {kind}")
        record.metrics = add_sums(list(metrics)) if metrics else {}
        record.personal = add_sums(list(personal)) if personal else {}
        record.train_loss = loss / count if count else None
        if all("clients" in groups for groups in groups_of_calls):
            record.per_client = {
                name: self._column(groups_of_calls, name, order)
                for name in CLIENT_ARRAYS
                if all(name in groups["clients"] for groups in groups_of_calls)
            }
        return record

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages that have all clients evaluate the last head; in other rounds none.

        The replies to `train` already carry the validation metrics of the head that they received.
        """
        if server_round < self.server.rounds:
            return []
        self._calls = self.roster.calls(np.arange(len(self.roster.names)))
        own = self.strategy.personal(self.state or {})
        personal = None if own is None else HalfSettings(name=own.half.name, parameters=dict(own.half.parameters))
        extra = array_record(own.arrays) if own is not None and own.arrays else None
        messages = []
        for call in self._calls:
            body = EvaluateRequest(
                run_id=self.run_id,
                weights_digest=self.weights_digest,
                round_number=server_round,
                shard=call.shard,
                per_client=self._asks_per_client,
                personal=personal,
                state_version=int(self.versions[self.roster.of(call)].max()),
            )
            record = pack(body, {"clients": {"index": call.index}})
            record["head"] = arrays
            if extra is not None:
                record["extra"] = extra
            messages.append(Message(record, dst_node_id=call.node, message_type="evaluate", group_id=str(server_round)))
        return messages

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the metrics over all clients' validation parts; None without replies."""
        replies = list(replies)
        if not replies:
            return None
        unpacked = unpacked_replies(self._calls, server_round, replies, EvaluateReply)
        lacking = [call for call, (body, _) in zip(self._calls, unpacked, strict=True) if not body.has_state]
        if lacking:
            raise self._state_lost(server_round, lacking)
        groups_of_calls = [groups for _, groups in unpacked]
        for call, (body, _) in zip(self._calls, unpacked, strict=True):
            self._note_busy(call, body.seconds)
        clients = np.concatenate([call.clients for call in self._calls])
        self.record = self._recorded(groups_of_calls, clients, np.argsort(clients))
        return MetricRecord(dict(summarise(self.record.metrics, self.objective.task)))

    def summary(self) -> None:
        """Say nothing: the run directory holds the whole scenario."""


def _numpy(arrays: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in arrays.items()}
