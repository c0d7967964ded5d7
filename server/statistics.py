"""Sums of features and leave-one-client-out, asked of all hosts: one message a shard and host.

`server/sums.py` checks the replies and adds them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedgraft.alignment.moments import MomentKind, check_moments_size
from fedgraft.closed_form import Moments, check_lambda, moment_shapes
from fedgraft.errors import WireError
from fedgraft.pseudo_label_settings import PseudoLabelSettings
from fedgraft.recipes import Recipe
from fedgraft.settings import Settings
from fedgraft.wire.clusters import check_clusters_size
from fedgraft.wire.mixtures import Covariance
from fedgraft.wire.records import array_record, expect, pack
from fedgraft.wire.requests import (
    ClassSumsRequest,
    ClientsRequest,
    ClustersRequest,
    CrossValidateRequest,
    LeaveOutRequest,
    MixturesRequest,
    MomentsRequest,
    StatisticsRequest,
)
from fedgraft.wire.statistics import LARGEST_STATISTICS_BYTES, SecondMoment, check_statistics_size
from server.checkpoint import Counters
from server.exchange import exchange
from server.roster import Call, Roster
from server.sums import (
    CrossValidated,
    combine_class_sums,
    combine_cross_validation,
    combine_moments,
    combine_statistics,
)


@dataclass(frozen=True)
class Questions:
    """Messages that ask the hosts of a run for sums: one a shard and host.

    Attributes:
        roster: the clients and their hosts.
        run_id: ours.
        weights_digest: of the run's backbone.
        feature_dim: features a sample.
        alignment: what hosts bring features onto; None: they are left as they are.
        task_number: the task, where classes arrive task by task.
        pseudo_labels: how clients label their own samples without labels; None: such samples are left out.
        labeller: the head by which they do.
    """

    roster: Roster
    run_id: str
    weights_digest: str
    feature_dim: int
    alignment: ArrayRecord | None = None
    task_number: int = 0
    pseudo_labels: PseudoLabelSettings | None = None
    labeller: ArrayRecord | None = None

    def moments(self, calls: Sequence[Call], moment: MomentKind) -> list[Message]:
        """Return the messages that ask for moments of the clients' training samples, without their labels.

        Raises:
            WireError: they would be too large.
        """
        check_moments_size(self.feature_dim, moment)
        requests = self._requests(MomentsRequest, calls, moment=moment)
        return self._messages("moments", calls, requests)

    def clusters(
        self, calls: Sequence[Call], clusters: Mapping[str, NDArray[Any]], describe: bool = False, labelled: int = 0
    ) -> list[Message]:
        """Return the messages that ask for sums over the samples nearest to each of some centres.

        Args:
            calls: whom to ask.
            clusters: `centres`, `mean` and perhaps `axes`, float64.
            describe: whether to say more of them; see `fedgraft.wire.clusters`.
            labelled: how many samples of each class and client say which classes clusters are.

        Raises:
            WireError: the sums would be too large.
        """
        check_clusters_size(*np.shape(clusters["centres"]))
        requests = self._requests(ClustersRequest, calls, describe=describe, labelled=labelled)
        return self._messages("clusters", calls, requests, {"clusters": array_record(clusters)})

    def statistics(
        self, calls: Sequence[Call], second_moment: SecondMoment, radial_moments: bool = False
    ) -> list[Message]:
        """Return the messages that ask for sums over the clients' training samples.

        Raises:
            WireError: the sums would be too large.
        """
        num_outputs, task = len(self.roster.label_names), self.roster.task
        check_statistics_size(num_outputs, self.feature_dim, second_moment, task, radial_moments)
        requests = self._requests(StatisticsRequest, calls, second_moment=second_moment, radial_moments=radial_moments)
        return self._messages("statistics", calls, requests)

    def class_sums(self, calls: Sequence[Call]) -> list[Message]:
        """Return the messages that ask for each client's own counts and summed features by class."""
        requests = self._requests(ClassSumsRequest, calls)
        return self._messages("class_sums", calls, requests)

    def mixtures(self, calls: Sequence[Call], components: int, covariance: Covariance) -> list[Message]:
        """Return the messages that ask for Gaussian mixtures of each client's classes."""
        requests = self._requests(MixturesRequest, calls, components=components, covariance=covariance)
        return self._messages("mixtures", calls, requests)

    def cross_validate(
        self, calls: Sequence[Call], moments: Moments, lambdas: Sequence[float], bias: bool = True
    ) -> list[Message]:
        """Return the messages that ask how well heads without a client predict that client's training samples.

        Args:
            calls: whom to ask.
            moments: over at least these clients, as `fedgraft.closed_form.regression_moments` gives them.
            lambdas: penalties, above 0.
            bias: whether heads have a bias.

        Raises:
            WireError: no lambda or a bad one, or fewer than two clients with samples.
        """
        if not 1 <= len(lambdas) <= 100:
            raise WireError(f"{len(lambdas)} lambdas came; expected 1 to 100")
        if np.count_nonzero(self.roster.num_train) < 2:
            raise WireError(
                f"{np.count_nonzero(self.roster.num_train)} of {len(self.roster.names)} clients have training "
                "samples; leave-one-client-out needs two: give a lambda instead of choosing one"
            )
        check_statistics_size(len(self.roster.label_names), self.feature_dim, "shared", self.roster.task)
        shapes = moment_shapes(len(self.roster.label_names), self.feature_dim)
        expect(moments, shapes, "the pooled moments")
        for lambda_ in lambdas:
            try:
                check_lambda(moments, lambda_)
            except ValueError as error:
                raise WireError(str(error)) from error
        pooled = {name: np.asarray(moments[name], dtype=np.float64) for name in shapes}
        requests = self._requests(
            CrossValidateRequest, calls, lambdas=tuple(float(value) for value in lambdas), bias=bias
        )
        return self._messages("cross_validate", calls, requests, {"moments": array_record(pooled)})

    def leave_out(self, calls: Sequence[Call], pooled: Moments, recipe: Recipe, head: Moments) -> list[Message]:
        """Return the messages that ask for the head without each client.

        Args:
            calls: whom to ask.
            pooled: sums over at least these clients.
            recipe: how a head is made of them.
            head: one with the shapes that are expected.

        Raises:
            WireError: the heads would be too large together.
        """
        size = len(self.roster.names) * sum(np.asarray(value).nbytes for value in head.values())
        if size > LARGEST_STATISTICS_BYTES:
            raise WireError(
                f"a head without each of {len(self.roster.names):,} clients is {size:,} bytes, more than "
                f"{LARGEST_STATISTICS_BYTES:,}; set evaluation.contribution: false"
            )
        requests = self._requests(
            LeaveOutRequest, calls, form=recipe.form, parameters=dict(recipe.parameters), temperature=recipe.temperature
        )
        return self._messages("leave_out", calls, requests, {"pooled": array_record(pooled)})

    def _requests(self, kind: type[ClientsRequest], calls: Sequence[Call], **fields: Any) -> list[ClientsRequest]:
        """Return a request of a kind for each call, with what all of them say of the run."""
        return [
            kind(
                run_id=self.run_id,
                weights_digest=self.weights_digest,
                shard=call.shard,
                task_number=self.task_number,
                pseudo_labels=self.pseudo_labels,
                **fields,
            )
            for call in calls
        ]

    def _messages(
        self,
        kind: str,
        calls: Sequence[Call],
        requests: Sequence[Settings],
        groups: Mapping[str, ArrayRecord] | None = None,
    ) -> list[Message]:
        """Return a message for each call, with its request, and the same groups of arrays in all."""
        messages = []
        for call, request in zip(calls, requests, strict=True):
            record = pack(request, {"clients": {"index": call.index}})
            if self.alignment is not None:
                record["alignment"] = self.alignment
            if self.labeller is not None:
                record["labeller"] = self.labeller
            for group, arrays in (groups or {}).items():
                record[group] = arrays
            messages.append(Message(record, dst_node_id=call.node, message_type=f"query.{kind}"))
        return messages


@dataclass(frozen=True)
class Inquiry:
    """Asks the hosts of a run for sums, and waits for the answers.

    Attributes:
        grid: Flower's.
        questions: whom to ask, and about what.
        counters: where bytes and seconds are counted.
        timeout_seconds: how long to wait for the replies.
    """

    grid: Grid
    questions: Questions
    counters: Counters
    timeout_seconds: float

    def moments(self, moment: MomentKind, clients: NDArray[np.int64] | None = None) -> dict[str, NDArray[np.float64]]:
        """Return moments of the clients' training samples, by name, as `moments_shapes` describes them.

        Args:
            moment: which second moment.
            clients: positions in the roster, ascending; None: all.

        Raises:
            WireError: they would be too large, or a reply does not fit.
            HostError: a host failed.
        """
        calls, questions = self._calls(clients), self.questions
        replies = self.ask("moments", questions.moments(calls, moment))
        return combine_moments(calls, replies, questions.roster, questions.feature_dim, moment)

    def statistics(
        self,
        second_moment: SecondMoment = "none",
        clients: NDArray[np.int64] | None = None,
        radial_moments: bool = False,
    ) -> dict[str, NDArray[np.float64]]:
        """Return sums over the clients' training samples, by name, as `statistics_shapes` describes them.

        Args:
            second_moment: which second moment.
            clients: positions in the roster, ascending; None: all.
            radial_moments: whether the radial moments come too.

        Raises:
            WireError: the sums would be too large, or a reply does not fit.
            HostError: a host failed.
        """
        calls, questions = self._calls(clients), self.questions
        moments = (second_moment, radial_moments)
        replies = self.ask("statistics", questions.statistics(calls, *moments))
        return combine_statistics(calls, replies, questions.roster, questions.feature_dim, *moments)

    def class_sums(self, clients: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """Return each client's own counts and summed features by class, as `class_rows_shapes` describes them.

        Args:
            clients: positions in the roster, ascending; None: all.

        Raises:
            WireError: a reply does not fit.
            HostError: a host failed, the targets are not classes, or the sums would be too large.
        """
        calls, questions = self._calls(clients), self.questions
        replies = self.ask("class_sums", questions.class_sums(calls))
        return combine_class_sums(calls, replies, questions.roster, questions.feature_dim)

    def cross_validate(
        self,
        moments: Moments,
        lambdas: Sequence[float],
        bias: bool = True,
        clients: NDArray[np.int64] | None = None,
    ) -> CrossValidated:
        """Return how well heads without a client predict that client's training samples, summed over clients.

        Args:
            moments: over at least these clients, as `fedgraft.closed_form.regression_moments` gives them.
            lambdas: penalties, above 0.
            bias: whether heads have a bias.
            clients: positions in the roster, ascending; None: all.

        Raises:
            WireError: no lambda or a bad one, fewer than two clients with samples, or a reply does not fit.
            HostError: a host failed, or found that the moments do not contain its samples.
        """
        calls = self._calls(clients)
        replies = self.ask("cross_validate", self.questions.cross_validate(calls, moments, lambdas, bias))
        return combine_cross_validation(calls, replies, self.questions.roster, tuple(lambdas))

    def _calls(self, clients: NDArray[np.int64] | None) -> list[Call]:
        roster = self.questions.roster
        return roster.calls(np.arange(len(roster.names)) if clients is None else clients)

    def ask(self, kind: str, messages: Sequence[Message]) -> list[Message]:
        """Send messages of a kind; return the replies in their order.

        Raises:
            HostError: a host failed.
        """
        return exchange(self.grid, messages, self.counters, kind, self.timeout_seconds)
