"""The course of a run: roll call, backbone, rounds with checkpoints, last evaluation, results."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedgraft.errors import Fault, ScenarioError, listed
from fedgraft.evaluation import Objective
from fedgraft.metrics import Sums, summarise
from fedgraft.models.heads import initial_head
from fedgraft.models.losses import resolve_loss
from fedgraft.models.registry import describe
from fedgraft.progress import report
from fedgraft.submission import Submission
from fedgraft.threads import numpy_threads
from fedgraft.wire.records import Arrays, array_record
from fedgraft.workspace import open_workspace
from server.adapter import PackedStrategy, RoundRecord
from server.attendance import Attendance
from server.backbone import distribute
from server.balance import predicted_line
from server.checkpoint import Checkpoint, Counters, last_checkpoint, save_checkpoint
from server.contribution import write_contributions
from server.evaluation import CentralTest
from server.exchange import StateLostError, exchange
from server.flower_strategy import UnpackedStrategy
from server.results import write_results
from server.roster import Roster, call_the_roll
from server.run_directory import RunDirectory, new_directory
from server.settings import ServerPart
from strategies.base import Strategy
from strategies.flower import FlowerStrategy

MOST_GOINGS_BACK = 3
"""How often a run goes back to a checkpoint without coming further than it ever was."""


@dataclass
class Course:
    """A run in progress."""

    part: ServerPart
    directory: RunDirectory
    grid: Grid
    roster: Roster
    adapter: PackedStrategy
    central: CentralTest | None
    counters: Counters
    head: Arrays
    threads: int
    round_number: int = 0
    furthest: int = 0
    goings_back: int = 0
    central_sums: Sums | None = None


def conduct(grid: Grid, submission: Submission) -> Path:
    """Conduct a run from its first message to its last file; return the run directory.

    Raises:
        FedGraftError: anything that the user can mend.
    """
    part = ServerPart.model_validate_json(submission.scenario_json).within_rounds()
    directory, checkpoint = _open_directory(submission, part)
    with directory.recording():
        if directory.finished:
            return directory.path
        course = _begin(grid, submission, part, directory, checkpoint)
        ended = False
        while not ended:
            try:
                ended = _further(course)
            except StateLostError as lost:
                _go_back(course, lost)
    return directory.path


def _open_directory(submission: Submission, part: ServerPart) -> tuple[RunDirectory, Checkpoint | None]:
    """Return the run's directory and, when resuming, its last checkpoint."""
    run = submission.run
    path = Path(run.directory) if run.directory else new_directory(Path("runs").absolute(), part.name)
    directory = RunDirectory(path)
    if run.resume:
        directory.facts()
        checkpoint = last_checkpoint(path / "checkpoints")
        if checkpoint is not None:
            directory.truncate(checkpoint.sizes)
            return directory, checkpoint
        report("note", text="no checkpoint can be used; the run begins anew")
        directory.restart()
        return directory, None
    directory.create(submission)
    return directory, None


def _begin(
    grid: Grid, submission: Submission, part: ServerPart, directory: RunDirectory, checkpoint: Checkpoint | None
) -> Course:
    """Call the roll, distribute the backbone and set the head."""
    run_id = submission.run.run_id or str(uuid.uuid4())
    counters = checkpoint.counters if checkpoint else Counters(seconds=dict(submission.run.prepared_seconds))
    timeout = part.server.timeout_seconds
    started = time.perf_counter()
    import torch  # noqa: F401 - some seconds, which would else be booked on the first evaluation

    counters.spend("libraries", time.perf_counter() - started)
    report("phase", name="hosts")
    roster = call_the_roll(grid, run_id, submission.run.num_hosts, part.shards, counters, timeout)
    if not part.strategy.pools:
        part.server.check_cohort(len(roster.names), part.name)
    _check_strategy(part, roster)
    if part.attack is not None:
        liars = roster.attackers(part.attack, part.seed)
        report(
            "note",
            text=f"{part.attack.name} from round {part.attack.from_round} by {len(liars)} clients: {listed(liars)}",
        )
    line = predicted_line(roster, part.shards)
    if line is not None:
        report("explain", text=line)
    info = describe(part.backbone)
    num_sent = distribute(grid, roster, part.backbone, info, run_id, counters, timeout)
    if num_sent:
        report("note", text=f"backbone weights sent to {num_sent} host{'s' if num_sent > 1 else ''}")
    feature_dim = info.feature_dim or next(iter(roster.descriptions.values())).feature_dim
    objective = Objective(
        part.head, resolve_loss(part.loss, roster.task, roster.label_names), roster.task, _num_outputs(roster)
    )
    part.check_task(roster.task)

    adapter = PackedStrategy(
        _strategy(part.strategy),
        roster,
        part.server,
        part.evaluation,
        objective,
        run_id,
        part.seed,
        info.weights_digest,
        feature_dim,
        Attendance(part.availability, part.seed, roster.names, roster.num_train),
    )
    threads = submission.run.threads
    central = _central(part, objective, counters, threads)
    if checkpoint:
        adapter.go_back(checkpoint.state, checkpoint.versions)
        report("note", text=f"resumed after round {checkpoint.round_number}")
        number = checkpoint.round_number
        return Course(part, directory, grid, roster, adapter, central, counters, checkpoint.head, threads, number)
    head = initial_head(part.head, feature_dim, objective.num_outputs, part.seed)
    course = Course(part, directory, grid, roster, adapter, central, counters, head, threads)
    if part.init is not None:
        course.head = _made_at_once(course, part.init, 0, "init")
    adapter.state = dict(adapter.strategy.init(course.head))
    _evaluate_centrally(course)
    _save(course)
    return course


def _strategy(strategy: Strategy) -> Strategy:
    return UnpackedStrategy.of(strategy) if isinstance(strategy, FlowerStrategy) else strategy


def _check_strategy(part: ServerPart, roster: Roster) -> None:
    """Refuse a strategy that needs more clients in a round than there can be.

    Raises:
        ScenarioError: the strategy says so.
    """
    cohort = part.server.cohort_size(len(roster.names))
    shortage = part.strategy.shortage(min(cohort, int((roster.num_train > 0).sum())))
    if shortage:
        raise ScenarioError(part.name, [Fault("strategy", shortage)])


def _num_outputs(roster: Roster) -> int:
    return len(roster.label_names)


def _central(part: ServerPart, objective: Objective, counters: Counters, threads: int) -> CentralTest | None:
    """Return the central test part, or None where there is none or it is not wanted."""
    if not part.evaluation.central:
        return None
    started = time.perf_counter()
    workspace = open_workspace(part.data, part.seed, part.backbone, part.features)
    central = CentralTest(workspace, objective, threads)
    if central.num_samples:
        _ = workspace.features
    counters.spend("features", time.perf_counter() - started)
    return central if central.num_samples else None


def _further(course: Course) -> bool:
    """Run the next round, or after the last one the run's end; return whether that was the end."""
    if course.round_number < course.part.server.rounds:
        _round(course)
        return False
    _end(course)
    return True


def _round(course: Course) -> None:
    """Run one round: exchanges, aggregation, evaluation, and at times a checkpoint."""
    started, before = time.perf_counter(), (course.counters.bytes_down, course.counters.bytes_up)
    number = course.round_number + 1
    adapter = course.adapter
    shortage = adapter.shortage(number)
    if shortage is not None:
        report("note", text=f"round {number} is skipped: {shortage}")
        metrics, record = None, None
    else:
        metrics = _exchanges(course, adapter, number)
        course.head, record = adapter.head, adapter.record
    course.round_number = number
    if record is not None:
        _write_record(course, record, number)
    _evaluate_centrally(course)
    if adapter.without:
        write_contributions(course)
    row: dict[str, Any] = {"num_clients": len(record.clients) if record else 0, **dict(metrics or {})}
    row |= _attendance_of(adapter, number)
    row["bytes_down"] = course.counters.bytes_down - before[0]
    row["bytes_up"] = course.counters.bytes_up - before[1]
    row["seconds"] = round(time.perf_counter() - started, 6)
    course.directory.row(number, "train", row)
    report("round", number=number, of=course.part.server.rounds, **course.directory.latest)
    # In a skipped round hosts did not write the client state that a checkpoint would name.
    if course.part.server.saves_after(number) and (shortage is None or not adapter.versions.any()):
        _save(course)


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
    while True:
        messages = list(adapter.configure_train(number, sent, ConfigRecord(), course.grid))
        replies = _answers(course, messages, adapter.phase)
        timer = time.perf_counter()
        # Closed forms solve with NumPy; strategies that only add are not slowed by looking for its libraries.
        with numpy_threads(course.threads) if adapter.phase != "train" else contextlib.nullcontext():
            arrays, metrics = adapter.aggregate_train(number, replies)
        course.counters.spend("aggregate", time.perf_counter() - timer)
        if arrays is not None:
            return metrics


def _answers(course: Course, messages: Sequence[Message], phase: str) -> list[Message]:
    server = course.part.server
    return exchange(course.grid, messages, course.counters, phase, server.timeout_seconds, server.retries)


def _made_at_once(course: Course, strategy: Strategy, round_number: int, group: str) -> Arrays:
    """Return the head that a closed form makes of sums, and of the head that there is; record it after a round.

    The sums are those of the clients that come to that round, or for round 0 to the first.
    """
    adapter = course.adapter.beside(strategy)
    shortage = adapter.shortage(max(round_number, 1))
    if shortage is not None:
        report("note", text=f"the head that {group} asks for can't be made: {shortage}; the run goes on without it")
        return course.head
    metrics = dict(_exchanges(course, adapter, max(round_number, 1)) or {})
    course.directory.row(round_number, group, {"strategy": strategy.title, **metrics})
    return adapter.head


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
    if course.part.evaluation.per_client:
        course.directory.client_rows(
            number, [course.roster.names[client] for client in record.clients], record.per_client
        )


def _evaluate_centrally(course: Course, group: str = "central") -> None:
    if course.central is None or not course.adapter.evaluates_after(course.round_number):
        return
    started = time.perf_counter()
    sums = course.central.evaluate(course.head)
    course.counters.spend("evaluate", time.perf_counter() - started)
    values = summarise(sums, course.adapter.objective.task)
    course.directory.row(course.round_number, group, {"num_samples": int(sums["count"]), **values})
    course.central_sums = sums


def _save(course: Course) -> None:
    """Write a checkpoint; the hosts have written the client state that it names."""
    started = time.perf_counter()
    if course.round_number > course.furthest:
        course.furthest, course.goings_back = course.round_number, 0
    adapter = course.adapter
    checkpoint = Checkpoint(
        course.round_number,
        course.head,
        adapter.state or {},
        course.counters,
        course.directory.sizes(),
        adapter.versions if adapter.versions.any() else np.zeros(0, dtype=np.int64),
    )
    save_checkpoint(course.directory.path / "checkpoints", checkpoint)
    course.counters.spend("checkpoint", time.perf_counter() - started)


def _go_back(course: Course, lost: StateLostError) -> None:
    """Go on from the last checkpoint, whose client state lies in files; from the one before if it is lost too.

    Raises:
        StateLostError: `MOST_GOINGS_BACK` times this did not bring the run further, or no checkpoint is left.
    """
    course.goings_back += 1
    again = course.goings_back > 1
    before = course.round_number if again else None
    checkpoint = last_checkpoint(course.directory.path / "checkpoints", before)
    if checkpoint is None or course.goings_back > MOST_GOINGS_BACK:
        raise StateLostError(
            f"{lost}, and going back to a checkpoint did not help {course.goings_back - 1} times; look whether hosts "
            f"are killed for want of memory and whether client-state/ of the run is damaged, or start a new run"
        ) from lost
    course.directory.truncate(checkpoint.sizes)
    course.head, course.round_number, course.central_sums = checkpoint.head, checkpoint.round_number, None
    course.adapter.go_back(checkpoint.state, checkpoint.versions)
    report("note", text=f"{lost}; the run goes back to the end of round {checkpoint.round_number}")


def _end(course: Course) -> None:
    """Have all clients evaluate the last head, and write the results."""
    number, adapter = course.part.server.rounds, course.adapter
    if course.part.calibrate is not None:
        course.head = _made_at_once(course, course.part.calibrate, number, "calibrate")
        course.central_sums = None
        _evaluate_centrally(course, "calibrated")
    if course.central is not None and course.central_sums is None:
        course.central_sums = course.central.evaluate(course.head)
    messages = list(adapter.configure_evaluate(number, array_record(course.head), ConfigRecord(), course.grid))
    replies = _answers(course, messages, "evaluate")
    adapter.aggregate_evaluate(number, replies)
    if adapter.record is not None:
        _write_record(course, adapter.record, number + 1)
    write_results(course)
