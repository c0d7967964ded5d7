"""The sums by which one backbone is ranked: the roll call, one exchange of statistics, one of cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.serverapp import Grid
from numpy.typing import NDArray

from fedgraft.closed_form import regression_moments
from fedgraft.models.losses import Task
from fedgraft.submission import Submission
from server.checkpoint import Counters
from server.sums import CrossValidated
from server.survey import begin_inquiry
from strategies.ridge import DECADES


@dataclass(frozen=True)
class Inquired:
    """What the hosts said of the features of one backbone.

    Attributes:
        task: what the targets are.
        label_names: of the outputs.
        num_clients: that there are.
        feature_dim: features a sample.
        statistics: sums with the shared second moment and the radial moments.
        validated: leave-one-client-out of ridge heads, for each of the penalties.
        counters: bytes and seconds of all of it.
    """

    task: Task
    label_names: tuple[str, ...]
    num_clients: int
    feature_dim: int
    statistics: dict[str, NDArray[np.float64]]
    validated: CrossValidated
    counters: Counters


def inquire(grid: Grid, submission: Submission) -> Inquired:
    """Ask the hosts for the sums of the submitted scenario's backbone, and to validate ridge heads.

    Raises:
        WireError: a reply does not fit, the sums would be too large, or fewer than two clients have samples.
        HostError: a host failed.
    """
    _, inquiry = begin_inquiry(grid, submission)
    roster, feature_dim = inquiry.questions.roster, inquiry.questions.feature_dim
    statistics = inquiry.statistics("shared", radial_moments=True)
    moments = regression_moments(statistics, roster.task)
    mean_eigenvalue = float(np.trace(moments["second_moment"])) / feature_dim
    validated = inquiry.cross_validate(moments, tuple(factor * mean_eigenvalue for factor in DECADES))
    return Inquired(
        roster.task, roster.label_names, len(roster.names), feature_dim, statistics, validated, inquiry.counters
    )
