"""Runs that only ask: the roll call, the backbone to hosts that lack it, and then questions, without any training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedgraft.models.registry import describe
from fedgraft.submission import Submission, read_submission
from fedgraft.threads import numpy_threads
from server.backbone import distribute
from server.checkpoint import Counters
from server.roster import call_the_roll
from server.settings import ServerPart
from server.statistics import Inquiry, Questions

Answer = TypeVar("Answer")


def begin_inquiry(grid: Grid, submission: Submission) -> tuple[ServerPart, Inquiry]:
    """Call the roll and share the backbone; return the scenario's part, and who asks its hosts for sums.

    Raises:
        WireError: a reply does not fit.
        HostError: a host failed.
    """
    part, run = ServerPart.model_validate_json(submission.scenario_json), submission.run
    counters, timeout = Counters(), part.server.timeout_seconds
    roster = call_the_roll(grid, run.run_id, run.num_hosts, part.shards, counters, timeout)
    info = describe(part.backbone)
    distribute(grid, roster, part.backbone, info, run.run_id, counters, timeout)
    feature_dim = info.feature_dim or next(iter(roster.descriptions.values())).feature_dim
    return part, Inquiry(grid, Questions(roster, run.run_id, info.weights_digest, feature_dim), counters, timeout)


def asking_app(ask: Callable[[Grid, Submission], Answer], answers: list[Answer]) -> ServerApp:
    """Return a ServerApp that appends to `answers` what `ask` returns."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        submission = read_submission(context.run_config)
        with numpy_threads(submission.run.threads):
            answers.append(ask(grid, submission))

    return app
