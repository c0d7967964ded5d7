"""The course of a run: its rounds with checkpoints, its last evaluation, its results."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Literal

from flwr.app import ConfigRecord, MetricRecord
from flwr.serverapp import Grid

from fedgraft.memory import forget_peak
from fedgraft.metrics import summarise
from fedgraft.progress import report
from fedgraft.submission import Submission
from fedgraft.threads import numpy_threads
from fedgraft.wire.records import Arrays, array_record
from server.adapter import PackedStrategy
from server.answers import answers
from server.beginning import begin, open_directory
from server.contribution import write_contributions
from server.course import Course, go_back, save
from server.exchange import StateLostError
from server.label_shift import correct
from server.lifelong import curriculum_of, take_task, write_task_row
from server.pseudo_labels import write_pseudo_labels
from server.results import write_results
from server.round_record import RoundRecord
from server.settings import ServerPart
from server.stages import begin_next, leave_out_the_rest, tell
from server.stopping import note_validation, stops, take_best
from server.unfreezing import unfreeze
from strategies.base import Strategy


def conduct(grid: Grid, submission: Submission) -> Path:
    """Conduct a run from its first message to its last file; return the run directory.

    Raises:
        FedGraftError: anything that the user can mend.
    """
    parts = ServerPart.model_validate_json(submission.scenario_json).in_stages()
    directory, checkpoint = open_directory(submission, parts)
    with directory.recording():
        if directory.finished:
            return directory.path
        forget_peak()
        course = begin(grid, submission, parts, directory, checkpoint)
        course.pictures = submission.run.pictures
        course.adapter.curriculum = curriculum_of(course)
        take_task(course, course.round_number)
        if checkpoint is None:
            _start(course)
        ended = False
        while not ended:
            try:
                ended = _further(course)
            except StateLostError as lost:
                go_back(course, lost)
    return directory.path


def _start(course: Course) -> None:
    """Make the head that the run starts from, and write its first checkpoint."""
    tell(course)
    if course.part.init is not None:
        course.head = _made_at_once(course, course.part.init, 0, "init")
        course.adapter.state = dict(course.adapter.strategy.init(course.head))
    _evaluate_centrally(course)
    save(course)


def _further(course: Course) -> bool:
    """Run the next round, or go on to the next stage, or after the last one to the run's end; return whether it was."""
    if course.round_number < course.part.server.rounds and not stops(course):
        _round(course)
    elif course.part is not course.parts[-1]:
        _next_stage(course)
    else:
        _end(course)
        return True
    return False


def _next_stage(course: Course) -> None:
    """Go on to the next stage, with the last head, or the best if the stage stops early."""
    if stops(course):
        take_best(course)
        leave_out_the_rest(course)
        _evaluate_centrally(course)
        save(course)
    begin_next(course)


def _round(course: Course) -> None:
    """Run one round: exchanges, aggregation, evaluation, and at times a checkpoint."""
    started, before = time.perf_counter(), (course.counters.bytes_down, course.counters.bytes_up)
    number = course.round_number + 1
    adapter = course.adapter
    sent = course.head
    take_task(course, number)
    unfreeze(course, number)
    shortage = adapter.shortage(number)
    if shortage is not None:
        report("note", text=f"round {number} is skipped: {shortage}")
        metrics, record = None, None
    else:
        metrics = _exchanges(course, adapter, number)
        course.head, record = adapter.head, adapter.record
    course.round_number = number
    note_validation(course, record, sent)
    if record is not None:
        _write_record(course, record, number)
        write_pseudo_labels(course)
    _evaluate_centrally(course)
    if adapter.without:
        write_contributions(course)
    _end_task(course)
    row: dict[str, Any] = {"num_clients": len(record.clients) if record else 0, **dict(metrics or {})}
    row |= _attendance_of(adapter, number)
    row |= _spent(course, started, before)
    course.directory.row(number, "train", row)
    report("round", number=number, of=course.parts[-1].server.rounds, **course.directory.latest)
    # In a skipped round hosts did not write the client state that a checkpoint would name.
    if course.part.server.saves_after(number) and (shortage is None or not adapter.versions.any()):
        save(course)


def _spent(course: Course, started: float, before: tuple[int, int]) -> dict[str, float]:
    """Return the bytes and seconds since a moment, as rows state them."""
    return {
        "bytes_down": course.counters.bytes_down - before[0],
        "bytes_up": course.counters.bytes_up - before[1],
        "seconds": round(time.perf_counter() - started, 6),
    }


def _attendance_of(adapter: PackedStrategy, number: int) -> dict[str, float]:
    """Return what a simulated availability made of a round; nothing if there is none."""
    if adapter.attendance.settings is None:
        return {}
    present = adapter.present(number)
    return {
        "num_asked": present.num_asked,
        "num_missing": present.num_missing,
        "num_late": present.num_late,
        "simulated_seconds": round(present.seconds, 6),
    }


def _exchanges(course: Course, adapter: PackedStrategy, number: int) -> MetricRecord | None:
    """Have all exchanges of a round; the adapter holds the next head then. Return the strategy's metrics."""
    sent = array_record(course.head)
    adapter.begin_round()
    while True:
        messages = list(adapter.configure_train(number, sent, ConfigRecord(), course.grid))
        replies = answers(course, messages, adapter, number)
        if replies is None:
            continue
        timer = time.perf_counter()
        # Closed forms solve with NumPy; strategies that only add are not slowed by looking for its libraries.
        with numpy_threads(course.threads) if adapter.phase != "train" else contextlib.nullcontext():
            arrays, metrics = adapter.aggregate_train(number, replies)
        course.counters.spend("aggregate", time.perf_counter() - timer)
        if arrays is not None:
            return metrics


def _made_at_once(course: Course, strategy: Strategy, round_number: int, group: str) -> Arrays:
    """Return the head that a closed form makes of sums, and of the head that there is; record it after a round.

    The sums are those of the clients that come to that round, or for round 0 to the first.
    """
    adapter = course.adapter.beside(strategy)
    shortage = adapter.shortage(max(round_number, 1))
    if shortage is not None:
        report("note", text=f"the head that {group} asks for can't be made: {shortage}; the run goes on without it")
        return course.head
    started, before = time.perf_counter(), (course.counters.bytes_down, course.counters.bytes_up)
    row: dict[str, Any] = {"strategy": strategy.title, **dict(_exchanges(course, adapter, max(round_number, 1)) or {})}
    course.directory.row(round_number, group, row | _spent(course, started, before))
    return adapter.head


def _end_task(course: Course) -> None:
    """After the last round of a task that others follow, have all clients evaluate the head."""
    adapter, number = course.adapter, course.round_number
    if adapter.curriculum is None or not adapter.curriculum.ends_after(number) or number == adapter.server.rounds:
        return
    messages = list(adapter.evaluate_now(number, array_record(course.head)))
    adapter.aggregate_evaluate(number, answers(course, messages, adapter, number) or [])
    if adapter.record is not None:
        _write_record(course, adapter.record, number + 1)
    write_task_row(course)


def _write_record(course: Course, record: RoundRecord, number: int) -> None:
    """Write what the replies of round `number` said: of its training, and of the head that they received.

    The received head is that of the round before, so its validation rows bear that round's number; so do the rows of
    the clients' own heads, which are evaluated as they stood before the round.
    """
    groups: tuple[Literal["validation", "personal"], ...] = ("validation", "personal")
    for group in groups:
        values = record.summarised(group, course.adapter.objective.task)
        if values:
            sizes = {"num_clients": len(record.clients), "num_samples": int(record.metrics["count"])}
            course.directory.row(number - 1, group, {**sizes, **values})
    _write_clients(course, record, number)


def _write_clients(course: Course, record: RoundRecord, number: int) -> None:
    """Write what the replies of round `number` said of each client."""
    if course.part.evaluation.per_client:
        names = [course.roster.names[client] for client in record.clients]
        course.directory.client_rows(number, names, record.per_client)


def _evaluate_centrally(course: Course, group: str = "central") -> None:
    due = group == "calibrated" or course.adapter.evaluates_after(course.round_number)
    if course.central is None or not due:
        return
    started = time.perf_counter()
    sums = course.central.evaluate(course.head, course.cut_of_head)
    course.counters.spend("evaluate", time.perf_counter() - started)
    values = summarise(sums, course.adapter.objective.task)
    course.directory.row(course.round_number, group, {"num_samples": int(sums["count"]), **values})
    course.central_sums = sums


def _end(course: Course) -> None:
    """Have all clients evaluate the last head, or the best if the run stops early, and write the results."""
    adapter = course.adapter
    if stops(course):
        take_best(course)
    number = course.number_of_head
    if course.part.calibrate is not None:
        course.head = _made_at_once(course, course.part.calibrate, course.round_number, "calibrate")
        course.central_sums = None
        _evaluate_centrally(course, "calibrated")
    if course.central is not None and course.central_sums is None:
        course.central_sums = course.central.evaluate(course.head, course.cut_of_head)
    messages = list(adapter.configure_evaluate(number, array_record(course.head), ConfigRecord(), course.grid))
    adapter.aggregate_evaluate(number, answers(course, messages, adapter, number) or [])
    if adapter.record is not None and course.head_round is None:
        _write_record(course, adapter.record, number + 1)
    elif adapter.record is not None:  # its metrics stand there; its scores by client only of those that were asked then
        _write_clients(course, adapter.record, number + 1)
    write_task_row(course)
    course.label_shift = correct(course)
    write_results(course)
