"""Conducting a comparison: plan, forecast, runs, each resumable on its own; `fedgraft.compare` and the command."""

from __future__ import annotations

import contextlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedgraft.errors import FedGraftError, LaunchError, StoreError, listed
from fedgraft.features.locks import locked
from fedgraft.files import write_text
from fedgraft.progress import Event
from scenarios.comparison.names import differing_keys, flat
from scenarios.comparison.records import COMPARISON_FILE, RUNS_FOLDER, Comparison, Forecast, read_comparison
from scenarios.loader import load_scenario
from scenarios.schema import Scenario
from scenarios.sweep.bench import Message, Task, make_here
from scenarios.sweep.costs import fitting_jobs, forecasts
from scenarios.sweep.plan import Plan, SweepRun, plan
from scenarios.sweep.workers import make_in_workers
from scenarios.writer import to_yaml

PARENT = "comparisons"
SCENARIO_FILE = "scenario.yaml"
MAY_DIFFER = (
    *("runtime", "tracking"),
    *(f"compare.{name}" for name in ("seeds", "baseline", "metric", "target", "most_runs")),
)
"""Keys in which a comparison that goes on may differ from what it was begun with: no run that is there changes."""


@dataclass(frozen=True)
class Options:
    """How a comparison is conducted.

    Attributes:
        out: its directory; None: a new one below `comparisons/`, or with `resume` the newest unfinished one.
        resume: go on with it: finished runs stay, failed ones are tried again.
        dry_run: make the plan and the forecast only.
        jobs: processes that make runs side by side; None: what is soonest.
        verbose: let Flower and Ray log to the terminal.
    """

    out: Path | None = None
    resume: bool = False
    dry_run: bool = False
    jobs: int | None = None
    verbose: bool = False


def compare(
    scenario: str | Path | Scenario,
    overrides: Sequence[str],
    options: Options,
    show: Callable[[Event], None] = lambda event: None,
) -> Comparison:
    """Make all runs of a scenario's comparison, or with `dry_run` say what they will cost.

    Args:
        scenario: a file, the name of a shipped scenario, or a `Scenario`; it has a `compare` block.
        overrides: `key.sub=value`, as `--set` takes them.
        options: how.
        show: called with each event: `plan`, `calibrate`, `jobs`, `run` and `note`.

    Returns:
        The comparison; runs that failed are in it. With `dry_run` and no directory it lies nowhere.

    Raises:
        FedGraftError: anything that the user can mend, before a run is made; the text says what to do.
    """
    from fedgraft.api import quieten
    from server.tracking import check_installed

    planned = plan(scenario, overrides)
    check_installed(planned.scenario.tracking)
    quieten(options.verbose)
    show({"kind": "plan", "plan": planned})
    with _directory(planned, options) as directory:
        known = _known(planned, directory) if options.resume else None
        comparison = _comparison(planned, known)
        comparison = _with_forecasts(comparison, planned, show)
        if directory is None:
            return comparison
        write_text(directory / SCENARIO_FILE, to_yaml(planned.scenario))
        comparison = comparison.write(directory)
        if not options.dry_run:
            _make(comparison, planned, options, show)
    return read_comparison(directory)


def _comparison(planned: Plan, known: Comparison | None) -> Comparison:
    """Return the comparison that a plan makes; one that goes on keeps its identity and its forecasts."""
    from server.run_directory import environment

    settings, facts = planned.settings, environment()
    kept = {} if known is None else {run.id: run.forecast for run in known.runs}
    return Comparison(
        comparison_id=str(uuid.uuid4()) if known is None else known.comparison_id,
        name=planned.scenario.name,
        baseline=planned.baseline,
        metric=settings.metric,
        target=settings.target,
        seeds=settings.all_seeds,
        condition_keys=planned.condition_keys,
        created=str(facts["created"]) if known is None else known.created,
        environment=facts if known is None else known.environment,
        runs=tuple(replace(run.planned, forecast=kept.get(run.planned.id)) for run in planned.runs),
    )


def _with_forecasts(comparison: Comparison, planned: Plan, show: Callable[[Event], None]) -> Comparison:
    """Return the comparison with a forecast for each run that has none.

    Raises:
        FedGraftError: no contender at all could be tried: that is a fault of the scenario, not of a run.
    """
    lacking = {run.id for run in comparison.runs if run.forecast is None}
    runs = [run for run in planned.runs if run.planned.id in lacking]
    if not runs:
        return comparison

    def tell(done: int, of: int) -> None:
        show({"kind": "calibrate", "done": done, "of": of})

    with tempfile.TemporaryDirectory(prefix="fedgraft-compare-") as folder:
        costs, errors = forecasts(runs, Path(folder), tell)
    if not costs and len(runs) == len(comparison.runs):
        first = next(iter(errors.values()))
        raise FedGraftError(f"none of the contenders can be run; the first says: {first}")
    return replace(
        comparison, runs=tuple(replace(run, forecast=run.forecast or costs.get(run.id)) for run in comparison.runs)
    )


def _make(comparison: Comparison, planned: Plan, options: Options, show: Callable[[Event], None]) -> None:
    """Make all runs that are not finished, and write down which failed."""
    scenarios: dict[str, SweepRun] = {run.planned.id: run for run in planned.runs}
    runs = {run.id: run for run in comparison.runs}
    directory = comparison.directory
    if directory is None:
        raise StoreError("the comparison lies nowhere")
    open_runs = [run for run in comparison.runs if run.state != "finished"]
    for run in open_runs:
        run.retry()
    tasks = [
        Task(run.id, scenarios[run.id].scenario.model_dump_json(), str(directory / RUNS_FOLDER / run.id))
        for run in open_runs
    ]
    jobs = _jobs(planned, [run.forecast for run in open_runs], options.jobs)
    show({"kind": "jobs", "jobs": jobs, "open": len(tasks), "comparison": comparison})

    def heard(identifier: str, message: Message) -> None:
        if message["kind"] == "failed":
            runs[identifier].fail(str(message["error"]))
        show({**message, "kind": "run", "what": message["kind"], "id": identifier})

    if jobs == 1:
        make_here(tasks, heard)
    else:
        make_in_workers(tasks, jobs, heard, directory / "workers.log")


def _jobs(planned: Plan, costs: list[Forecast | None], wanted: int | None) -> int:
    """Return how many processes make the runs: one where each run starts processes of its own."""
    runtimes = {run.scenario.runtime.name for run in planned.runs}
    if runtimes != {"inline"}:
        return 1
    threads = max(run.scenario.runtime.threads for run in planned.runs)
    return min(wanted, max(1, len(costs))) if wanted else fitting_jobs(costs, threads)


@contextlib.contextmanager
def _directory(planned: Plan, options: Options) -> Iterator[Path | None]:
    """Yield the comparison's directory, locked; None for a forecast that is not to be kept.

    Raises:
        StoreError: it holds another comparison, or can't be written.
        LaunchError: another process is at it.
    """
    from server.run_directory import new_directory

    if options.dry_run and options.out is None:
        yield None
        return
    parent = Path(PARENT).absolute()
    path = options.out.absolute() if options.out else None
    if path is None and options.resume:
        path = _newest_unfinished(parent, planned)
        if path is None:
            raise StoreError(
                f"there is no unfinished comparison of {planned.shown_as} below {parent} to go on with; "
                "name its folder with --out, or start without --resume"
            )
    path = path or new_directory(parent, planned.scenario.name)
    if (path / COMPARISON_FILE).exists() and not options.resume:
        raise StoreError(
            f"{path} already holds a comparison; give another folder with --out, or --resume to go on with it"
        )
    if (path / "run.json").exists():
        raise StoreError(f"{path} holds a run; give another folder with --out")
    lock = path / ".lock"
    write_text(path / ".writable", "")
    (path / ".writable").unlink()
    try:
        with locked(lock, wait=False) as ours:
            if not ours:
                raise LaunchError(f"another process is at the comparison in {path}; wait for it, or end it")
            yield path
    finally:
        with contextlib.suppress(OSError):  # nothing could begin: leave no empty folder
            path.rmdir()
            parent.rmdir()


def _known(planned: Plan, directory: Path | None) -> Comparison | None:
    """Return the comparison that is there to go on with, if any.

    Raises:
        StoreError: it is of another scenario; names the keys that differ.
    """
    if directory is None or not (directory / COMPARISON_FILE).exists():
        return None
    known = read_comparison(directory)
    differing = _differing(directory, planned.scenario)
    if differing:
        raise StoreError(
            f"the comparison in {directory} was begun with another scenario (other: {listed(differing)}); go on with "
            f"its own: fedgraft compare {directory / SCENARIO_FILE} --out {directory} --resume"
        )
    return known


def _differing(directory: Path, scenario: Scenario) -> list[str]:
    """Return the keys in which a comparison's scenario differs from another, as far as they matter."""
    before, now = (
        flat(entry.model_dump(mode="json")) for entry in (load_scenario(directory / SCENARIO_FILE), scenario)
    )
    keys = differing_keys([before, now])
    return [key for key in keys if not any(key == name or key.startswith(f"{name}.") for name in MAY_DIFFER)]


def _newest_unfinished(parent: Path, planned: Plan) -> Path | None:
    """Return the newest comparison of this scenario that has runs to be made, or None."""
    found = []
    for path in parent.glob(f"{planned.scenario.name}-*/{COMPARISON_FILE}"):
        with contextlib.suppress(FedGraftError):  # one of another release is none of ours
            same = not _differing(path.parent, planned.scenario)
            if same and any(run.state != "finished" for run in read_comparison(path.parent).runs):
                found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def as_json_document(comparison: Comparison) -> dict[str, Any]:
    """Return what machines want to know of a comparison: where it lies, and how each run ended."""
    return {
        "directory": None if comparison.directory is None else str(comparison.directory),
        "name": comparison.name,
        "baseline": comparison.baseline,
        "runs": [
            {
                "id": run.id,
                "contender": run.contender,
                "condition": run.condition,
                "seed": run.seed,
                "state": run.state if comparison.directory is not None else "open",
                "error": run.error if comparison.directory is not None else None,
                "forecast": None if run.forecast is None else vars(run.forecast),
            }
            for run in comparison.runs
        ],
    }
