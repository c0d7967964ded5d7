"""The adapter: makes any of our strategies a Flower `Strategy`, whose messages go to hosts, not to clients.

`configure_train` turns the strategy's plan into one message a shard and host; `aggregate_train` checks the
replies, adds the shards' sums in float64 in shard order, and asks the strategy for the next head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, MetricRecordValues
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlwrStrategy
from numpy.typing import NDArray

from fedgraft.closed_form import regression_moments
from fedgraft.errors import TrainingError, WireError, listed
from fedgraft.evaluation import Objective
from fedgraft.metrics import Sums, summarise
from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.wire.records import Arrays, array_record, group_of
from fedgraft.wire.requests import EvaluateReply, StateSettings, TrainReply
from server.attendance import Attendance, Present
from server.combining import Asked, combine_updates, stack_updates
from server.contribution import leave_out_rows
from server.exchange import StateLostError
from server.head_messages import HeadMessages
from server.lifelong import Curriculum
from server.past_tasks import past_of, with_past
from server.pseudo_labels import PSEUDO_LABELS, check_counts, sums_of, with_labelled
from server.replies import in_order, unpacked_replies
from server.roster import Call, Roster
from server.round_record import RoundRecord, recorded
from server.settings import EvaluationSettings, ServerPart, ServerSettings
from server.statistics import Questions
from strategies.base import (
    ClassSums,
    CrossValidate,
    Exchange,
    Half,
    LeaveOut,
    Mixtures,
    Replies,
    Request,
    Statistics,
    Strategy,
)

PHASES: Mapping[type[Exchange], str] = {
    Statistics: "statistics",
    ClassSums: "class_sums",
    Mixtures: "mixtures",
    CrossValidate: "cross_validate",
    LeaveOut: "leave_out",
}
"""What seconds of an exchange are booked on; all others are training."""


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
        resident: whether all messages to a host come to one process.
        alignment: what hosts bring features onto; default: they are left as they are.
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
        resident: bool = True,
        alignment: Arrays | None = None,
    ) -> None:
        self.attendance = attendance or Attendance(None, seed, roster.names, roster.num_train)
        self.strategy = strategy
        self.roster = roster
        self.server = server
        self.evaluation = evaluation
        self.objective = objective
        self.run_id = run_id
        self._resident, self.seed = resident, seed
        self.weights_digest = weights_digest
        self._alignment = None if alignment is None else array_record(alignment)
        self._questions = Questions(roster, run_id, weights_digest, feature_dim, self._alignment)
        self.head: Arrays = {}
        self.state: Arrays | None = None
        self.record: RoundRecord | None = None
        self.without: Arrays = {}
        """Heads without each client of the round, `(num_clients, *shape)`, after one that asked for them."""
        self.busy_seconds: dict[int, float] = {}
        """Seconds that each host, by node, has spent on its messages."""
        self.rounds_before = 0
        """The number of the last round before the stage."""
        self.local_norm = False
        """Whether clients keep their own batch norm in trained blocks."""
        self.stopped = False
        """Whether the run ends before its last round."""
        self.curriculum: Curriculum | None = None
        """The tasks that arrive one after another; None: all classes are there from the start."""
        self.pseudo_labels: PseudoLabelSettings | None = None
        """How clients label their own samples without labels; None: such samples are left out."""
        self.begins_trained = False
        """Whether the head of the first round can label: a closed form made it."""
        self.task_number = 0
        """The task that the round in progress belongs to, from 1; 0: there are none."""
        self.past: Arrays = {}
        """What closed forms were told of earlier tasks."""
        self._plan: tuple[Exchange, ...] = ()
        self._calls: list[Call] = []
        self._gathered: list[Replies] = []
        self._absent: frozenset[int] = frozenset()
        self._before = np.zeros(len(roster.names), dtype=np.int64)
        self.versions = np.zeros(len(roster.names), dtype=np.int64)
        """The version of each client's state, which is that of its shard at its host; see `StateSettings`."""

    def beside(self, strategy: Strategy) -> PackedStrategy:
        """Return the adapter of another strategy for the same clients, before its first round."""
        other = copy.copy(self)
        other.strategy, other.evaluation = strategy, self.evaluation.model_copy(update={"contribution": False})
        other.head, other.state, other.record, other.without = {}, None, None, {}
        other._plan, other._calls, other._gathered = (), [], []
        other.past = {}
        other.versions = np.zeros_like(self.versions)
        other.pseudo_labels = None
        return other

    def take_task(self, number: int, roster: Roster) -> None:
        """Go on with the samples that clients have during a task.

        Args:
            number: the task, from 1.
            roster: all clients, with these samples.
        """
        self.task_number, self.roster = number, roster
        self._questions = replace(self._questions, roster=roster, task_number=number)
        self.attendance = Attendance(self.attendance.settings, self.seed, roster.names, roster.num_train)

    def in_stage(self, strategy: Strategy, part: ServerPart) -> PackedStrategy:
        """Return the adapter of a stage of the run, before its first round; what clients keep begins anew in it."""
        other = self.beside(strategy)
        other.server, other.evaluation, other.rounds_before = part.server, self.evaluation, part.rounds_before
        other.local_norm = part.unfreeze is not None and part.unfreeze.local_norm
        other.pseudo_labels = part.pseudo_labels
        other.stopped = False
        return other

    def go_back(self, state: Arrays, versions: NDArray[np.int64], past: Arrays) -> None:
        """Forget the round in progress; go on from what a checkpoint held."""
        self.state, self._plan, self._gathered, self.past = state, (), [], past
        self.versions = versions.copy() if len(versions) else np.zeros(len(self.roster.names), dtype=np.int64)

    def begin_round(self) -> None:
        """Ask everybody again who was left out of the round before."""
        self._absent, self._before = frozenset(), self.versions.copy()

    def keep_only(self, places: Sequence[int]) -> bool:
        """Go on without the hosts that did not answer the exchange in progress; return whether it can be combined.

        It can't be after an earlier exchange of the round in which they took part: then the round begins again.

        Args:
            places: of the messages that were answered, ascending.
        """
        if len(places) == len(self._calls):
            return True
        kept = [self._calls[place] for place in places]
        self._absent |= {call.node for call in self._calls} - {call.node for call in kept}
        self._calls = [call for call in kept if call.node not in self._absent]
        if len(self._calls) == len(kept) and not (self._plan and self._gathered):
            return True
        self._plan, self._gathered, self.versions = (), [], self._before.copy()
        return False

    def fault_of(self, round_number: int, place: int, reply: Message) -> str | None:
        """Return what is wrong with one reply of the exchange in progress; None: it can be combined."""
        calls, busy = self._calls, dict(self.busy_seconds)
        self._calls = [calls[place]]
        try:
            request = self._plan[len(self._gathered)] if self._plan else None
            if isinstance(request, Request):
                self._combine(round_number, request, [reply])
            elif request is not None:
                self._combine_sums(round_number, request, [reply])
            else:
                unpacked_replies(self._calls, round_number, [reply], EvaluateReply)
        except StateLostError:
            return None  # no fault of the reply; the run goes back
        except (WireError, TrainingError) as error:
            return str(error)
        finally:
            self._calls, self.busy_seconds = calls, busy
        return None

    def cohort(self, round_number: int) -> NDArray[np.int64]:
        """Return the clients of a round, ascending: a pure function of seed, round, and of whose hosts are away."""
        clients = self.present(round_number).clients
        if not self._absent:
            return clients
        away = np.isin(self.roster.nodes[clients], np.array(sorted(self._absent), dtype=np.uint64))
        return clients[~away]

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
        if self.curriculum is not None and self.curriculum.ends_after(round_number):
            return True
        due = round_number % self.evaluation.every == 0
        return due or round_number in (self.rounds_before, self.server.rounds)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages of the next exchange of a round, one a shard and host."""
        if self.state is None:
            self.head = _numpy(arrays)
            self.state = self.strategy.init(self.head)
        if not self._plan:
            self.head = _numpy(arrays)
            self._plan = tuple(map(self._with_norm, self.strategy.plan(self.state, server_round)))
            if self.evaluation.contribution and self.strategy.leaves_out == "hosts":
                self._plan = (*self._plan, LeaveOut())
            self._gathered = []
        request = self._plan[len(self._gathered)]
        self._calls = self.roster.calls(self.cohort(server_round), to_all=self._keeps_now(server_round))
        questions = self._questions
        if self._labels_in(server_round):
            questions = replace(questions, pseudo_labels=self.pseudo_labels, labeller=array_record(self.head))
        if isinstance(request, Statistics):
            return questions.statistics(self._calls, request.second_moment)
        if isinstance(request, ClassSums):
            return questions.class_sums(self._calls)
        if isinstance(request, Mixtures):
            return questions.mixtures(self._calls, request.components, request.covariance)
        if isinstance(request, CrossValidate):
            moments, lambdas = self._penalties(request)
            return questions.cross_validate(self._calls, moments, lambdas, bias="bias" in self.head)
        if isinstance(request, LeaveOut):
            recipe = self.strategy.recipe(self.head, tuple(self._gathered))
            return self._questions.leave_out(self._calls, self._gathered[0].statistics, recipe, self.head)
        request = self.strategy.completed(request, self.head, tuple(self._gathered))
        states = [self._state_of(server_round, request, call) for call in self._calls]
        evaluate = self.evaluates_after(server_round - 1)
        if self.curriculum is not None and self.curriculum.begins_with(server_round):
            evaluate = False  # all clients did, when the task before ended
        return self._messages(server_round).train(self.strategy, request, arrays, self._calls, states, evaluate)

    def _messages(self, round_number: int) -> HeadMessages:
        return HeadMessages(
            self.run_id,
            self.weights_digest,
            round_number,
            self._asks_per_client,
            self._alignment,
            self.task_number,
            self.pseudo_labels if self._labels_in(round_number) else None,
        )

    def _labels_in(self, round_number: int) -> bool:
        """Whether clients label samples in a round: by the head that it begins with, which must have been trained."""
        return self.pseudo_labels is not None and (round_number > 1 or self.begins_trained)

    def _told(self, round_number: int, found: Sequence[Arrays | None]) -> tuple[Roster, Sums]:
        """Return the roster that replies speak of, and what they say of samples that clients labelled themselves.

        Args:
            round_number: the round.
            found: what the replies say of these, in the order of the calls.
        """
        if not self._labels_in(round_number):
            return self.roster, {}
        check_counts(self._calls, found, self.roster)
        counts = [told or {} for told in found]
        return with_labelled(self.roster, self._calls, counts), sums_of(self.roster, self._calls, counts)

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
        return StateSettings(
            version=version, becomes=becomes, keep=self._keeps_now(round_number), pass_on=not self._resident
        )

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

    def _with_norm(self, exchange: Exchange) -> Exchange:
        """Return an exchange in which clients keep their own batch norm, if the scenario says so.

        Raises:
            TrainingError: the strategy has clients do what does not go with it.
        """
        if not self.local_norm or not isinstance(exchange, Request):
            return exchange
        if exchange.half.name != "plain":
            raise TrainingError(
                f"unfreeze.batch_norm is local, but the clients of {self.strategy.title} do more than plain steps "
                f"({exchange.half.name}); set it to frozen, or take fedavg or another strategy whose clients do not"
            )
        return replace(exchange, half=Half("local_norm"), keeps_state=True)

    @property
    def _personal(self) -> Request | None:
        """How each client has a head, or batch norm, of its own; None: there are none."""
        if self.local_norm:
            return Request(half=Half("local_norm"))
        return self.strategy.personal(self.state or {})

    @property
    def _asks_per_client(self) -> bool:
        """Whether replies say what each client's scores are: personal heads are judged by the worst ones too."""
        return self.evaluation.per_client or self._personal is not None

    @property
    def exchanges_left(self) -> bool:
        """Whether the round in progress asks for another exchange."""
        return bool(self._plan)

    @property
    def phase(self) -> str:
        """What the exchange in progress asks for; seconds are booked on it."""
        if not self._plan:
            return "evaluate"
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
            gathered, pseudo = self._combine_sums(server_round, request, list(replies))
            record = RoundRecord(self.cohort(server_round), pseudo_labels=pseudo)
        if not (isinstance(request, Request) and request.again):  # it says nothing that the exchange before did not
            self.record = record
        self._gathered.append(gathered)
        if len(self._gathered) < len(self._plan):
            return None, None
        try:
            outcome = self.strategy.aggregate(self.state or {}, self.head, tuple(self._gathered))
        except ValueError as error:  # a pure strategy has no other words for what it can't do
            raise TrainingError(f"strategy {self.strategy.title}, round {server_round}: {error}") from error
        self._leave_out(server_round)
        if self.curriculum is not None and self.curriculum.ends_after(server_round):
            self.past = past_of(self._plan, self._gathered)
        self.head, self.state, self._plan = dict(outcome.head), dict(outcome.state), ()
        metrics: dict[str, MetricRecordValues] = dict(outcome.metrics)
        if self.record is not None and self.record.train_loss is not None:
            metrics["train_loss"] = self.record.train_loss
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
        self._note_busy([body.seconds for body, _ in unpacked])
        roster, pseudo = self._told(round_number, [groups.get(PSEUDO_LABELS) for _, groups in unpacked])
        if self.strategy.reply == "stack":
            gathered = stack_updates(self._calls, unpacked, self.head, roster)
        else:
            gathered = combine_updates(request, self._calls, unpacked, self.head, roster)
        record = recorded(self._calls, [groups for _, groups in unpacked], self.objective)
        record.pseudo_labels = pseudo
        return gathered, record

    def _state_lost(self, round_number: int, lacking: Sequence[Call]) -> StateLostError:
        shards = listed(str(call.shard) for call in lacking)
        return StateLostError(f"round {round_number}: the hosts of shards {shards} lack their clients' state")

    def _combine_sums(self, round_number: int, request: Exchange, replies: Sequence[Message]) -> tuple[Replies, Sums]:
        """Check the replies to a question about sums and add them; return also what they say of pseudo-labels."""
        found = [group_of(reply.content, PSEUDO_LABELS) for reply in in_order(self._calls, replies)]
        roster, pseudo = self._told(round_number, found)
        asked = Asked(self._calls, roster, self._questions.feature_dim, self.objective.task, self.head)
        lambdas = self._penalties(request)[1] if isinstance(request, CrossValidate) else ()
        combined = asked.combined(request, replies, lambdas)
        return with_past(self.past, len(self._gathered), request, combined), pseudo

    def _note_busy(self, seconds: Sequence[float]) -> None:
        for call, spent in zip(self._calls, seconds, strict=True):
            self.busy_seconds[call.node] = self.busy_seconds.get(call.node, 0.0) + spent

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages that have all clients evaluate the last head; in other rounds none.

        The replies to `train` already carry the validation metrics of the head that they received.
        """
        return self.evaluate_now(server_round, arrays) if server_round >= self.server.rounds or self.stopped else []

    def evaluate_now(self, server_round: int, arrays: ArrayRecord, own: Request | None = None) -> list[Message]:
        """Return messages that have all clients evaluate a head, and their own, which are the strategy's by default."""
        self._calls = self.roster.calls(np.arange(len(self.roster.names)))
        own = own or self._personal
        versions = [int(self.versions[self.roster.of(call)].max()) for call in self._calls]
        return self._messages(server_round).evaluate(own, arrays, self._calls, versions)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the metrics over all clients' validation parts; None without replies."""
        replies = list(replies)
        if not replies:
            return None
        unpacked = unpacked_replies(self._calls, server_round, replies, EvaluateReply)
        lacking = [call for call, (body, _) in zip(self._calls, unpacked, strict=True) if not body.has_state]
        if lacking:
            raise self._state_lost(server_round, lacking)
        self._note_busy([body.seconds for body, _ in unpacked])
        groups_of_calls = [groups for _, groups in unpacked]
        self.record = recorded(self._calls, groups_of_calls, self.objective, with_confidence=True)
        return MetricRecord(dict(summarise(self.record.metrics, self.objective.task)))

    def summary(self) -> None:
        """Say nothing: the run directory holds the whole scenario."""


def _numpy(arrays: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in arrays.items()}
