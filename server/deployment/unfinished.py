"""Runs that the server's end interrupted: they go on from their last checkpoint when it is back."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from fedgraft.errors import FedGraftError
from fedgraft.submission import Submission, read_submission
from server.deployment.control import Control, FlowerRun

LOST = ("No heartbeat", "Task failed with unknown error")
"""What Flower says of a run whose process was gone when it looked; all other failures are the run's own."""


def resubmit_unfinished(control: Control, log: logging.Logger) -> None:
    """Submit again whatever was being run when the server went down; before anything new is started.

    Args:
        control: of the SuperLink, which still counts the runs of before as running, or as failed for want of a sign.
        log: says which.
    """
    seen: set[str] = set()
    for run in control.runs():
        try:
            submission = read_submission({"scenario": run.submission})
            if submission.run.run_id in seen:  # it went on as a later one
                continue
            seen.add(submission.run.run_id)
            if run.status.startswith("pending") or (run.finished and not was_lost(run)):
                continue
            # First the new one: who follows the run never finds that the last of it was stopped.
            control.submit({"scenario": going_on(submission).to_run_config()})
            if not run.finished:
                control.stop(run.run_id)
        except FedGraftError as error:
            log.warning("run %d was interrupted and can't go on: %s", run.run_id, error)
            continue
        log.info("run %s goes on from its last checkpoint", submission.run.run_id[:8])


def was_lost(run: FlowerRun) -> bool:
    """Tell whether a run failed because its process ended, and not by its own fault."""
    return run.status == "finished:failed" and any(text in run.details for text in LOST)


def going_on(submission: Submission) -> Submission:
    """Return the submission that goes on with a run, from its start if it had not got as far as a folder."""
    begun = (Path(submission.run.directory) / "run.json").exists()
    return dataclasses.replace(submission, run=submission.run.model_copy(update={"resume": begun}))
