"""How a run begins, or goes on from a checkpoint: its directory, the roll call, the backbone, the first head."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from flwr.serverapp import Grid

from fedgraft.alignment.settings import AdaBn
from fedgraft.errors import Fault, ScenarioError, listed
from fedgraft.evaluation import Objective
from fedgraft.models.heads import initial_head
from fedgraft.models.losses import resolve_loss
from fedgraft.models.registry import describe
from fedgraft.progress import report
from fedgraft.submission import Submission
from fedgraft.wire.records import Arrays
from fedgraft.workspace import open_workspace
from server.adapter import PackedStrategy
from server.alignment import Ground
from server.attendance import Attendance
from server.backbone import distribute
from server.balance import predicted_line
from server.checkpoint import Checkpoint, Counters, last_checkpoint
from server.course import Course
from server.evaluation import CentralAlignment, CentralTest
from server.exchange import HostError
from server.flower_strategy import runnable
from server.label_shift import check_label_shift
from server.pseudo_labels import check_pseudo_labels
from server.roster import Roster, call_the_roll, call_the_sites
from server.run_directory import RunDirectory, new_directory
from server.settings import ServerPart
from server.sites import Sites
from server.statistics import Questions
from server.unfreezing import check_cuts


def open_directory(submission: Submission, parts: tuple[ServerPart, ...]) -> tuple[RunDirectory, Checkpoint | None]:
    """Return the run's directory and, when resuming, its last checkpoint."""
    run = submission.run
    path = Path(run.directory) if run.directory else new_directory(Path("runs").absolute(), parts[0].name)
    directory = RunDirectory(path)
    directory.stages = {part.stage: part.server.rounds for part in parts if part.stage is not None}
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


def begin(
    grid: Grid,
    submission: Submission,
    parts: tuple[ServerPart, ...],
    directory: RunDirectory,
    checkpoint: Checkpoint | None,
) -> Course:
    """Call the roll, distribute the backbone and set the head."""
    part = parts[0]
    run_id = submission.run.run_id or str(uuid.uuid4())
    counters = checkpoint.counters if checkpoint else Counters(seconds=dict(submission.run.prepared_seconds))
    timeout = part.server.timeout_seconds
    _load_libraries(counters)
    report("phase", name="hosts")
    sites = _sites(submission, part)
    if sites is None:
        roster = call_the_roll(grid, run_id, submission.run.num_hosts, part.shards, counters, timeout)
    else:
        roster = call_the_sites(grid, run_id, sites, part.shards, counters)
    for stage in parts:
        _check_clients(stage, roster)
    _tell(part, roster)
    info = describe(part.backbone)
    check_cuts(parts, info)
    _tell_of_weights(distribute(grid, roster, part.backbone, info, run_id, counters, timeout, sites), sites)
    feature_dim = info.feature_dim or next(iter(roster.descriptions.values())).feature_dim
    for stage in parts:
        stage.check_task(roster.task)
    alignment = None
    if part.align is not None and not isinstance(part.align, AdaBn):
        questions = Questions(roster, run_id, info.weights_digest, feature_dim)
        asked = Ground(grid, questions, counters, timeout, sites, part.name)
        alignment = asked.of_run(part.align, directory.path)
    loss = resolve_loss(part.loss, roster.task, roster.label_names)
    objective = Objective(part.head, loss, roster.task, len(roster.label_names))
    check_label_shift(parts[-1], objective, int(roster.num_validation.sum()))
    adapter = PackedStrategy(
        runnable(part.strategy),
        roster,
        part.server,
        part.evaluation,
        objective,
        run_id,
        part.seed,
        info.weights_digest,
        feature_dim,
        Attendance(part.availability, part.seed, roster.names, roster.num_train),
        resident=submission.run.resident,
        alignment=alignment,
    )
    for stage in parts:
        check_pseudo_labels(stage, objective, roster)
    adapter.pseudo_labels, adapter.begins_trained = part.pseudo_labels, part.init is not None
    adapter.local_norm = part.unfreeze is not None and part.unfreeze.local_norm
    threads = submission.run.threads
    central = _central(part, objective, counters, threads, alignment)
    head = checkpoint.head if checkpoint else initial_head(part.head, feature_dim, objective.num_outputs, part.seed)
    number = checkpoint.round_number if checkpoint else 0
    course = Course(parts, part, directory, grid, roster, adapter, central, counters, head, threads, sites, number)
    if checkpoint:
        _go_back(course, checkpoint)
    else:
        adapter.state = dict(adapter.strategy.init(head))
    return course


def _load_libraries(counters: Counters) -> None:
    """Load torch: some seconds, which would else be booked on the first evaluation."""
    started = time.perf_counter()
    import torch  # noqa: F401

    counters.spend("libraries", time.perf_counter() - started)


def _go_back(course: Course, checkpoint: Checkpoint) -> None:
    """Take a course to where its checkpoint was written.

    Raises:
        HostError: fewer clients are there than have kept state.
    """
    _check_state(checkpoint, course.roster)
    report("note", text=f"resumed after round {checkpoint.round_number}")
    stage = course.of(checkpoint.round_number)
    if stage:
        course.enter(stage)
    course.adapter.go_back(checkpoint.state, checkpoint.versions, checkpoint.past)
    course.best = checkpoint.best


def _sites(submission: Submission, part: ServerPart) -> Sites | None:
    """Return the sites of a deployed run; None for a simulation."""
    names = submission.run.sites
    if not names:
        return None
    quorum = part.server.quorum or len(names) // 2 + 1
    settings = part.server
    waits = (settings.timeout_seconds, settings.resend_seconds, settings.absent_seconds)
    return Sites(names, min(quorum, len(names)), *waits)


def _check_state(checkpoint: Checkpoint, roster: Roster) -> None:
    """Refuse to go on with fewer clients than have kept state in this run.

    Raises:
        HostError: says how many there were.
    """
    before, now = len(checkpoint.versions), len(roster.names)
    if before not in (0, now):
        raise HostError(
            f"the run keeps state at {before} clients, and {now} are there; start the sites that are missing, then "
            "restart the server or submit again"
        )


def _check_clients(part: ServerPart, roster: Roster) -> None:
    """Refuse a round, or a strategy, that needs more clients than there can be.

    Raises:
        ScenarioError: the settings or the strategy say so.
    """
    if not part.strategy.pools:
        part.server.check_cohort(len(roster.names), part.name)
    cohort = part.server.cohort_size(len(roster.names))
    shortage = part.strategy.shortage(min(cohort, int((roster.num_train > 0).sum())))
    if shortage:
        raise ScenarioError(part.name, [Fault(f"{part.place}strategy", shortage)])


def _tell(part: ServerPart, roster: Roster) -> None:
    """Say who lies, and how evenly the hosts' work is shared."""
    if part.attack is not None:
        liars = roster.attackers(part.attack, part.seed)
        report(
            "note",
            text=f"{part.attack.name} from round {part.attack.from_round} by {len(liars)} clients: {listed(liars)}",
        )
        if part.attack.name == "a-little-is-enough" and part.shards > 1:
            report(
                "note",
                text=f"liars know the updates of their own shard only; compare runs of {part.shards} shards",
            )
    line = predicted_line(roster, part.shards)
    if line is not None:
        report("explain", text=line)


def _tell_of_weights(num_sent: int, sites: Sites | None) -> None:
    if num_sent:
        what = "host" if sites is None else "site"
        report("note", text=f"backbone weights sent to {num_sent} {what}{'s' if num_sent > 1 else ''}")


def _central(
    part: ServerPart, objective: Objective, counters: Counters, threads: int, alignment: Arrays | None
) -> CentralTest | None:
    """Return the central test part, or None where there is none or it is not wanted."""
    if not part.evaluation.central or part.data.at_sites:
        return None
    started = time.perf_counter()
    workspace = open_workspace(part.data, part.seed, part.backbone, part.features)
    aligned = None
    if part.align is not None:
        aligned = CentralAlignment(part.align, alignment or {})
    central = CentralTest(workspace, objective, threads, part.unfreeze, aligned)
    if central.num_samples:
        _ = central.features
    counters.spend("features", time.perf_counter() - started)
    return central if central.num_samples else None
