"""The answers to queries about training samples: sums, counts, mixtures, and heads in closed form."""

from __future__ import annotations

from clients.clusters import Nearest, cluster_sums, described, known_classes
from clients.cross_validation import CrossValidation
from clients.leave_out import HeadsWithout
from clients.members import Groups, Members, joined
from clients.mixtures import mixtures
from clients.pseudo_labels import labelled_for_query
from clients.statistics import class_rows, statistics_sums
from fedgraft.alignment.moments import check_moments_size, moment_sums
from fedgraft.errors import WireError, listed
from fedgraft.recipes import PARAMETERS, Recipe
from fedgraft.threads import numpy_threads
from fedgraft.wire.clusters import check_clusters_size
from fedgraft.wire.requests import (
    ClassSumsReply,
    ClassSumsRequest,
    ClustersReply,
    ClustersRequest,
    CrossValidateReply,
    CrossValidateRequest,
    LeaveOutReply,
    LeaveOutRequest,
    MixturesReply,
    MixturesRequest,
    MomentsReply,
    MomentsRequest,
    StatisticsReply,
    StatisticsRequest,
)
from fedgraft.wire.statistics import check_statistics_size


class Queries:
    """Answers queries for a host.

    Args:
        members: the host's clients.
    """

    def __init__(self, members: Members) -> None:
        self._members = members

    def moments(self, request: MomentsRequest, groups: Groups) -> tuple[MomentsReply, Groups]:
        """Return moments of the training samples of the clients that the request names, without their labels.

        They are what features are aligned by, so they are of features as they are, unless an alignment came.
        """
        members = self._members
        aligned = "alignment" in groups
        features = members.features(request.weights_digest, groups) if aligned else members.raw(request.weights_digest)
        index = members.index(groups)
        check_moments_size(features.shape[1], request.moment)
        rows, _ = joined(members.workspace.federation.all_train, members.clients[index])
        with numpy_threads(members.threads):
            sums = moment_sums(features, rows, request.moment)
        body = MomentsReply(shard=request.shard, num_clients=len(index), num_samples=len(rows))
        return body, {"sums": {**sums}}

    def clusters(self, request: ClustersRequest, groups: Groups) -> tuple[ClustersReply, Groups]:
        """Return sums over the training samples that are nearest to each of the centres that came.

        Raises:
            WireError: the centres do not fit the features, or several starts are to be described.
        """
        members = self._members
        features, index = members.raw(request.weights_digest), members.index(groups)
        nearest = Nearest(features, groups.get("clusters", {}))
        check_clusters_size(*nearest.centres.shape)
        if request.describe and (nearest.centres.shape[0] > 1 or nearest.centres.shape[1] < 2):
            raise WireError(f"centres of shape {nearest.centres.shape} can't be described; expected one start of two")
        federation = members.workspace.federation
        rows, _ = joined(federation.all_train, members.clients[index])
        has_classes = members.objective.task == "classes"
        with numpy_threads(members.threads):
            sums = cluster_sums(nearest, rows)
            if request.describe:
                sums |= described(
                    nearest,
                    [federation.all_train.of(int(client)) for client in members.clients[index]],
                    joined(federation.validation, members.clients[index])[0],
                    known_classes(federation) if has_classes else None,
                    members.objective.num_outputs if has_classes else 0,
                    members.keys[index],
                    members.part.seed,
                    request.labelled,
                )
        body = ClustersReply(shard=request.shard, num_clients=len(index), num_samples=len(rows))
        return body, {"sums": sums}

    def statistics(self, request: StatisticsRequest, groups: Groups) -> tuple[StatisticsReply, Groups]:
        """Return sums over the training samples of the clients that the request names."""
        members, told = labelled_for_query(self._members, request, groups)
        features, index = members.features(request.weights_digest, groups), members.index(groups)
        task, num_outputs = members.objective.task, members.objective.num_outputs
        second_moment, radial = request.second_moment, request.radial_moments
        check_statistics_size(num_outputs, features.shape[1], second_moment, task, radial)
        rows, _ = joined(members.workspace.federation.train, members.clients[index])
        with numpy_threads(members.threads):
            targets = members.targets_of_sums
            sums = statistics_sums(features, targets, rows, task, num_outputs, second_moment, radial)
        body = StatisticsReply(shard=request.shard, num_clients=len(index), num_samples=len(rows))
        return body, {"sums": sums, **told}

    def class_sums(self, request: ClassSumsRequest, groups: Groups) -> tuple[ClassSumsReply, Groups]:
        """Return each named client's counts and summed features by class.

        Raises:
            WireError: the targets are not classes, or the sums would be too large.
        """
        members, told = labelled_for_query(self._members, request, groups)
        features, index = members.features(request.weights_digest, groups), members.index(groups)
        self._check_classes("query.class_sums")
        rows = members.training_rows(index)
        found = class_rows(features, members.targets_of_sums, rows)
        body = ClassSumsReply(shard=request.shard, num_clients=len(index), num_samples=sum(map(len, rows)))
        return body, {"rows": found, **told}

    def mixtures(self, request: MixturesRequest, groups: Groups) -> tuple[MixturesReply, Groups]:
        """Fit Gaussian mixtures to each named client's features of each class.

        Raises:
            WireError: the targets are not classes, or the mixtures would be too large.
        """
        members, told = labelled_for_query(self._members, request, groups)
        features, index = members.features(request.weights_digest, groups), members.index(groups)
        self._check_classes("query.mixtures")
        rows, keys, targets = members.training_rows(index), members.keys[index], members.targets_of_sums
        components, covariance, seed = request.components, request.covariance, members.part.seed
        with numpy_threads(members.threads):
            found = mixtures(features, targets, rows, keys, seed, components, covariance)
        body = MixturesReply(shard=request.shard, num_clients=len(index), num_samples=sum(map(len, rows)))
        return body, {"rows": found, **told}

    def cross_validate(self, request: CrossValidateRequest, groups: Groups) -> tuple[CrossValidateReply, Groups]:
        """Predict each named client's training samples with heads that lack that client, and count."""
        members, told = labelled_for_query(self._members, request, groups)
        features, index = members.features(request.weights_digest, groups), members.index(groups)
        targets, rows = members.targets_of_sums, members.training_rows(index)
        task, num_outputs = members.objective.task, members.objective.num_outputs
        with numpy_threads(members.threads):
            validation = CrossValidation(
                features, targets, task, num_outputs, groups.get("moments"), request.lambdas, request.bias
            )
            counts = validation.counts(rows)
        body = CrossValidateReply(shard=request.shard, num_clients=len(index), num_samples=sum(map(len, rows)))
        return body, {"counts": counts, **told}

    def leave_out(self, request: LeaveOutRequest, groups: Groups) -> tuple[LeaveOutReply, Groups]:
        """Make the head without each named client in turn.

        Raises:
            WireError: the request's parameters or sums are not those of its form, or without a client nothing is left.
        """
        members = self._members
        features, index = members.features(request.weights_digest, groups), members.index(groups)
        if sorted(request.parameters) != sorted(PARAMETERS[request.form]):
            came, needs = listed(request.parameters) or "none", listed(PARAMETERS[request.form]) or "none"
            raise WireError(f"the request's parameters for {request.form} are {came}; expected {needs}")
        recipe = Recipe(request.form, request.parameters, request.temperature)
        targets, rows = members.targets_of_sums, members.training_rows(index)
        task, num_outputs = members.objective.task, members.objective.num_outputs
        with numpy_threads(members.threads):
            without = HeadsWithout(features, targets, task, num_outputs, groups.get("pooled"), recipe)
            heads = without.stack(rows, [members.names[position] for position in index])
        body = LeaveOutReply(shard=request.shard, num_clients=len(index), num_samples=sum(map(len, rows)))
        return body, {"heads": {**heads}}

    def _check_classes(self, query: str) -> None:
        """Refuse a query that needs one class a sample."""
        task = self._members.objective.task
        if task != "classes":
            raise WireError(f"{query} needs one class a sample; the targets are {task!r}")
