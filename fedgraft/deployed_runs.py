"""Runs between separate machines: submitted on the server's own machine, followed, and fetched from there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedgraft.api import resolve
from fedgraft.deployment.kits import ServerFolder
from fedgraft.errors import Fault, FedGraftError, LaunchError, ScenarioError, StoreError
from fedgraft.events import follower
from fedgraft.launch import quieten
from fedgraft.preparation import check_strategy
from fedgraft.progress import Event, listening, report
from fedgraft.runs import Run
from fedgraft.server_runs import COMPLETED, SHOWN, chosen, find
from fedgraft.submission import RunFacts, Submission, read_submission

if TYPE_CHECKING:
    from scenarios.schema import Scenario
    from server.deployment.control import Control, FlowerRun

POLL_SECONDS = 0.3
MOST_RESUBMISSIONS = 3
"""How often a run whose process at the server ended is started again by whoever follows it."""

LOST_SECONDS = 20.0
"""How long a follower leaves such a run to a server that has just come back, and starts it again itself."""

SERVER_AWAY_SECONDS = 600.0
"""How long a follower waits for a server that does not answer: it may be restarting."""


def deployed(scenario: Scenario) -> Scenario:
    """Return a scenario as it runs between sites: their data stand in for its own.

    Raises:
        ScenarioError: it asks for what only a simulation can do.
    """
    from fedgraft.data.settings import NaturalSettings, SitesSettings
    from fedgraft.simulation.settings import InlineRuntime

    faults = [
        Fault(key, "is for simulations only: real sites come, stay away and answer as they do; set it to null")
        for key, value in (("attack", scenario.attack), ("availability", scenario.availability))
        if value is not None
    ]
    pooling = [part.strategy for part in scenario.in_stages() if part.strategy.pools]
    if pooling:
        text = f"{pooling[0].title} pools all clients' data, which sites do not give; take another strategy"
        faults.append(Fault("strategy", text))
    if scenario.evaluation.contribution:
        faults.append(Fault("evaluation.contribution", "needs a central test part, which a deployed run has not"))
    if faults:
        raise ScenarioError(scenario.name, faults)
    own = {"source": SitesSettings(), "partition": NaturalSettings(), "test_fraction": 0.0}
    return scenario.model_copy(
        update={
            "data": scenario.data.model_copy(update=own),
            "evaluation": scenario.evaluation.model_copy(update={"central": False}),
            "runtime": InlineRuntime(threads=scenario.runtime.threads, device=scenario.runtime.device),
            "shards": 1,
        }
    )


def submit(
    scenario: str | Path | Scenario,
    folder: ServerFolder,
    overrides: Sequence[str] = (),
    *,
    out: Path | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_poll: Callable[[], None] | None = None,
) -> Run:
    """Run a scenario at the sites of a federation and fetch the results.

    Args:
        scenario: a file, the name of a shipped scenario, or a `Scenario`.
        folder: the server's kit, on the server's machine.
        overrides: `key.sub=value`; not with a `Scenario`.
        out: the run directory that the results are fetched into; default: a new one below `runs/`.
        on_event: called with each progress event.
        on_poll: called a few times a second.

    Raises:
        FedGraftError: anything that the user can mend; the text says what to do.
    """
    from server.deployment.control import Control
    from server.run_directory import new_directory

    resolved = deployed(resolve(scenario, overrides))
    quieten(verbose=False)
    check_strategy(resolved)
    target = _target(out or new_directory(Path("runs"), resolved.name))
    directory = new_directory(Path(folder.settings.runs), resolved.name)
    with contextlib.ExitStack() as stack:
        if on_event:
            stack.enter_context(listening(on_event))
        control = stack.enter_context(Control(folder))
        sites = _sites(control, folder, resolved)
        facts = RunFacts(
            run_id=str(uuid.uuid4()),
            directory=str(directory),
            num_hosts=len(sites),
            threads=resolved.runtime.threads,
            device=resolved.runtime.device,
            sites=sites,
        )
        submission = Submission(resolved.model_dump_json(), facts)
        short = facts.run_id[:SHOWN]
        report("note", text=f"this is run {short}; to follow it again: fedgraft submit --resume {short} --kit KIT")
        report("note", text=f"the scenario's digest, for sites that allow scenarios by it: {submission.digest}")
        control.submit({"scenario": submission.to_run_config()})
        follow(control, facts.run_id, directory, on_poll)
    return Run(fetch(directory, target))


def resume(
    run: str,
    folder: ServerFolder,
    *,
    out: Path | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_poll: Callable[[], None] | None = None,
) -> Run:
    """Follow a run of the server to its end and fetch the results; one that failed or was stopped goes on first.

    Args:
        run: the beginning of FedGraft's id of it.
        folder: the server's kit, on the server's machine.
        out: the run directory that the results are fetched into; default: one of the same name below `runs/`.
        on_event: called with each progress event.
        on_poll: called a few times a second.

    Raises:
        FedGraftError: anything that the user can mend; the text says what to do.
    """
    from server.deployment.control import Control
    from server.deployment.unfinished import going_on

    quieten(verbose=False)
    with contextlib.ExitStack() as stack:
        if on_event:
            stack.enter_context(listening(on_event))
        control = stack.enter_context(Control(folder))
        found = chosen(control, run)
        submission = read_submission({"scenario": found.submission})
        directory = Path(submission.run.directory)
        target = _target(out or Path("runs") / directory.name)
        if found.finished and found.status != COMPLETED:
            report("note", text=f"run {submission.run.run_id[:SHOWN]} goes on from its last checkpoint")
            control.submit({"scenario": going_on(submission).to_run_config()})
        follow(control, submission.run.run_id, directory, on_poll)
    return Run(fetch(directory, target))


def _target(path: Path) -> Path:
    """Return the absolute path of a folder that results are fetched into.

    Raises:
        StoreError: a run is in it.
    """
    target = path.absolute()
    if (target / "run.json").exists():
        raise StoreError(f"{target} already holds a run; give another folder with --out")
    return target


def _sites(control: Control, folder: ServerFolder, scenario: Scenario) -> tuple[str, ...]:
    """Return the names of the sites that may join, and say who is there.

    Raises:
        LaunchError: the server does not run, or has no sites.
    """
    names = tuple(site.name for site in folder.settings.sites)
    if not names:
        raise LaunchError(f"{folder.folder / 'server.yaml'} names no sites; fedgraft provision adds them")
    there = [node.name for node in control.nodes() if node.online]
    away = sorted(set(names) - set(there))
    report("note", text=f"{len(there)} of {len(names)} sites are there" + (f"; not {', '.join(away)}" if away else ""))
    quorum = scenario.server.quorum or len(names) // 2 + 1
    if quorum > len(names):
        text = f"came {quorum}, but the federation has {len(names)} sites"
        raise ScenarioError(scenario.name, [Fault("server.quorum", text)])
    return names


def follow(control: Control, run_id: str, directory: Path, on_poll: Callable[[], None] | None = None) -> None:
    """Report a run's events until it has ended; a server that is restarted meanwhile is waited for.

    Raises:
        FedGraftError: the run failed or was stopped; or the server stays away.
    """
    report_new, losses = follower(directory / "events.jsonl"), _Losses(control)
    seen = time.monotonic()
    while True:
        report_new()
        if on_poll is not None:
            on_poll()
        try:
            run = find(control, run_id)
            if time.monotonic() - seen > 10 * POLL_SECONDS + 2:
                report("note", text="the server answers again")
            seen = time.monotonic()
        except LaunchError:
            if time.monotonic() - seen > SERVER_AWAY_SECONDS:
                raise
            run = None
        if run is not None and run.finished and not losses.may_go_on(run):
            report_new()
            if run.status == COMPLETED:
                return
            raise FedGraftError(_ending(run, run_id, directory))
        time.sleep(POLL_SECONDS)


@dataclass
class _Losses:
    """Runs whose process at the server ended; the server starts them again, or else their follower does."""

    control: Control
    since: float | None = None
    resubmitted: int = 0

    def may_go_on(self, run: FlowerRun) -> bool:
        """Tell whether a finished run is to be waited for; after some time start it again."""
        from server.deployment.unfinished import going_on, was_lost

        if not was_lost(run) or self.resubmitted >= MOST_RESUBMISSIONS:
            return False
        self.since = self.since or time.monotonic()
        if time.monotonic() - self.since > LOST_SECONDS:
            report("note", text="the run's process at the server ended; it goes on from its last checkpoint")
            submission = read_submission({"scenario": run.submission})
            self.control.submit({"scenario": going_on(submission).to_run_config()})
            self.resubmitted, self.since = self.resubmitted + 1, None
        return True


def _ending(run: FlowerRun, run_id: str, directory: Path) -> str:
    further = f"go on with: fedgraft submit --resume {run_id[:SHOWN]} --kit KIT"
    if run.status == "finished:stopped":
        return f"the run was stopped; what it left is in {directory}; {further}"
    return f"{run.details or 'the run failed'}\n(what it left is in {directory}; the server's log says more; {further})"


def fetch(directory: Path, target: Path) -> Path:
    """Copy a finished run's files, whole or not at all, and return where they are.

    Raises:
        StoreError: they can't be read or written.
    """
    if directory == target:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
            shutil.copytree(directory, Path(temporary) / "run")
            if target.is_dir():
                target.rmdir()  # empty, or else there is something that is not ours
            (Path(temporary) / "run").rename(target)
    except OSError as error:
        raise StoreError(f"the results in {directory} can't be fetched into {target}: {error}") from error
    return target
