"""The sums by which one backbone is ranked: the roll call, one exchange of statistics, one of cross-validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from fedgraft.closed_form import regression_moments
from fedgraft.models.losses import Task
from fedgraft.models.registry import describe
from fedgraft.submission import Submission, read_submission
from fedgraft.threads import numpy_threads
from server.backbone import distribute
from server.checkpoint import Counters
from server.roster import call_the_roll
from server.settings import ServerPart
from server.statistics import Inquiry, Questions
from server.sums import CrossValidated
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
    part, run = ServerPart.model_validate_json(submission.scenario_json), submission.run
    counters, timeout = Counters(), part.server.timeout_seconds
    roster = call_the_roll(grid, run.run_id, run.num_hosts, part.shards, counters, timeout)
    info = describe(part.backbone)
    distribute(grid, roster, part.backbone, info, run.run_id, counters, timeout)
    feature_dim = info.feature_dim or next(iter(roster.descriptions.values())).feature_dim
    questions = Questions(roster, run.run_id, info.weights_digest, feature_dim)
    inquiry = Inquiry(grid, questions, counters, timeout)
    statistics = inquiry.statistics("shared", radial_moments=True)
    moments = regression_moments(statistics, roster.task)
    mean_eigenvalue = float(np.trace(moments["second_moment"])) / feature_dim
    validated = inquiry.cross_validate(moments, tuple(factor * mean_eigenvalue for factor in DECADES))
    return Inquired(roster.task, roster.label_names, len(roster.names), feature_dim, statistics, validated, counters)


def asking(found: list[Inquired]) -> ServerApp:
    """Return a ServerApp that appends what it is told to `found`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        submission = read_submission(context.run_config)
        with numpy_threads(submission.run.threads):
            found.append(inquire(grid, submission))

    return app
