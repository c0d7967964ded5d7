"""Early stopping: a run, or a stage of it, ends when the clients' validation loss has not fallen for some rounds.

Lutz Prechelt, "Early stopping - but when?", 1998. The loss of a round's head comes with the replies to the next round,
so that it costs no message of its own.
"""

from __future__ import annotations

from dataclasses import replace

from fedgraft.progress import report
from fedgraft.wire.records import Arrays
from server.checkpoint import Best
from server.course import Course
from server.round_record import RoundRecord


def note_validation(course: Course, record: RoundRecord | None, sent: Arrays) -> None:
    """Remember the head that a round began with, if it is the best so far.

    Args:
        course: the run, whose `round_number` is the round that ended.
        record: what the replies said of the head that they received; None: the round was skipped.
        sent: that head.
    """
    if course.part.server.patience is None or record is None:
        return
    loss, number = record.summarised("validation", course.adapter.objective.task).get("loss"), course.round_number - 1
    if loss is None:  # not evaluated in this round
        return
    if course.best is None or loss < course.best.loss:
        course.best = Best(number, loss, dict(sent), number)
    else:
        course.best = replace(course.best, last_round=number)


def stops(course: Course) -> bool:
    """Return whether the run, or the stage that it is in, ends before its last round."""
    patience, best = course.part.server.patience, course.best
    if patience is None or best is None or course.round_number >= course.part.server.rounds:
        return False
    return best.last_round - best.round_number >= patience


def take_best(course: Course) -> None:
    """Go back to the best head, with which the run, or the stage, ends."""
    best = course.best
    if best is None:
        return
    what = "the run" if course.part is course.parts[-1] else f"stage {course.part.stage}"
    began = course.part.rounds_before > 0 and best.round_number == course.part.rounds_before
    head = "the head that it began with" if began else f"the head of round {best.round_number}"
    report(
        "note",
        text=f"no better validation loss than {best.loss:.4g} for {course.part.server.patience} rounds: {what} ends "
        f"after round {course.round_number} with {head}",
    )
    course.head, course.head_round, course.central_sums = best.head, best.round_number, None
    course.adapter.stopped = True
