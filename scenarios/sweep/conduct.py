"""Conducting a comparison: plan, forecast, tuning, runs, each resumable; `fedgraft.compare` and the command."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedgraft.errors import FedGraftError, StoreError
from fedgraft.files import write_text
from fedgraft.progress import Event
from scenarios.comparison.records import (
    RUNS_FOLDER,
    Comparison,
    PlannedRun,
    Tuning,
    read_comparison,
)
from scenarios.schema import Scenario
from scenarios.sweep.bench import Message, Task
from scenarios.sweep.benches import Benches, benches_for, check_runtime, placed, tuning_costs
from scenarios.sweep.costs import forecasts
from scenarios.sweep.options import Options
from scenarios.sweep.place import SCENARIO_FILE, directory_of, known_comparison
from scenarios.sweep.plan import Plan, SweepRun, own_answers, plan
from scenarios.sweep.proposals import check_installed as optuna_installed
from scenarios.sweep.searches import with_settings
from scenarios.sweep.tuning import chosen_for, open_searches, tune, tuning_of
from scenarios.writer import to_yaml

TUNING_FOLDER = "tuning"


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
        show: called with each event: `plan`, `calibrate`, `tries`, `tune`, `tuned`, `jobs` and `run`.

    Returns:
        The comparison; runs that failed are in it. With `dry_run` and no directory it lies nowhere.

    Raises:
        FedGraftError: anything that the user can mend, before a run is made; the text says what to do.
    """
    from fedgraft.launch import quieten
    from server.tracking import check_installed

    planned = plan(scenario, overrides)
    check_installed(planned.scenario.tracking)
    if planned.searches:
        optuna_installed()
    if options.ray is not None:
        check_runtime(planned)
    quieten(options.verbose)
    show({"kind": "plan", "plan": planned})
    with directory_of(planned, options) as directory:
        known = known_comparison(planned, directory) if options.resume else None
        comparison = _comparison(planned, known)
        comparison = _with_forecasts(comparison, planned, show)
        tries = tuning_costs(comparison, planned)
        if tries:
            show({"kind": "tries", "costs": tries})
        if directory is None:
            return comparison
        write_text(directory / SCENARIO_FILE, to_yaml(planned.scenario))
        comparison = comparison.write(directory)
        if not options.dry_run:
            with benches_for(comparison, planned, options) as benches:
                comparison, runs = _tuned(comparison, planned, benches, show)
                _make(comparison, runs, benches, show)
    return read_comparison(directory)


def _comparison(planned: Plan, known: Comparison | None) -> Comparison:
    """Return the comparison that a plan makes; one that goes on keeps its identity, forecasts and tuning."""
    from server.run_directory import environment

    settings, facts = planned.settings, environment()
    kept = {} if known is None else {run.id: run.forecast for run in known.runs}
    tuning = () if known is None else known.tuning
    runs = (_with_tuning(run, tuning).planned for run in planned.runs)
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
        runs=tuple(replace(run, forecast=kept.get(run.id)) for run in runs),
        tuning=tuning,
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


def _tuned(
    comparison: Comparison, planned: Plan, benches: Benches, show: Callable[[Event], None]
) -> tuple[Comparison, list[SweepRun]]:
    """Tune what is to be tuned and has not been, or in vain; return the comparison and its runs with the choices."""
    settings, directory = planned.settings.tune, placed(comparison)
    runs = list(planned.runs)
    if settings is None or not planned.searches:
        return comparison, runs
    tunings = comparison.tuning
    searches = open_searches(planned.searches, tunings)
    if searches:
        show({"kind": "tune", "done": 0, "of": 0, "settings": settings, "searches": searches})

        def tell(done: int, of: int) -> None:
            show({"kind": "tune", "done": done, "of": of})

        folder = directory / TUNING_FOLDER
        found = tune(searches, settings, comparison.metric, folder, benches.make, tell)
        both = (*found, *tunings)
        ordered = (chosen_for(both, search.contender, search.condition) for search in planned.searches)
        tunings = tuple(one for one in ordered if one is not None)
    runs = [_with_tuning(run, tunings) for run in runs]
    of = {run.planned.id: run.planned.tuned for run in runs}
    changed = tuple(replace(run, tuned=of[run.id]) for run in comparison.runs)
    comparison = replace(comparison, runs=changed, tuning=tunings).write(directory)
    show({"kind": "tuned", "comparison": comparison})
    return comparison, runs


def _with_tuning(run: SweepRun, tunings: Sequence[Tuning]) -> SweepRun:
    """Return a run with the settings that were chosen for it."""
    found = tuning_of(tunings, run.planned)
    if found is None or not found.settings:
        return run
    scenario, faults = with_settings(run.scenario, found.settings)
    if scenario is None:  # it ran while it was tried
        raise StoreError(f"the settings that were chosen for {run.planned.contender} are refused: {faults[0].message}")
    return SweepRun(replace(run.planned, tuned=dict(found.settings)), scenario)


def _make(
    comparison: Comparison, sweep_runs: Sequence[SweepRun], benches: Benches, show: Callable[[Event], None]
) -> None:
    """Make all runs that are not finished, and write down which failed."""
    scenarios = {run.planned.id: run.scenario for run in sweep_runs}
    runs = {run.id: run for run in comparison.runs}
    directory = placed(comparison)
    open_runs = [run for run in comparison.runs if run.state != "finished"]
    for run in open_runs:
        run.retry()
    hopeless = {run.id: error for run in open_runs if (error := _tuning_error(comparison, run)) is not None}
    tasks = [
        Task(run.id, scenarios[run.id].model_dump_json(), str(directory / RUNS_FOLDER / run.id))
        for run in open_runs
        if run.id not in hopeless
    ]
    jobs = max(1, min(benches.number, len(tasks)))
    event = {"kind": "jobs", "jobs": jobs, "open": len(open_runs), "comparison": comparison}
    show({**event, "own_answers": own_answers(sweep_runs)})

    def heard(identifier: str, message: Message) -> None:
        if message["kind"] == "failed":
            runs[identifier].fail(str(message["error"]))
        show({**message, "kind": "run", "what": message["kind"], "id": identifier})

    for identifier, error in hopeless.items():
        heard(identifier, {"kind": "failed", "error": error})
    benches.make(tasks, heard)


def _tuning_error(comparison: Comparison, run: PlannedRun) -> str | None:
    """Return why a run can't be made: no setting that was tried for it could be run; None: it can."""
    found = tuning_of(comparison.tuning, run)
    if found is None or found.error is None:
        return None
    return f"none of the {found.num_settings} settings that were tried could be run; the first says: {found.error}"


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
                "role": run.role,
                "tuned": run.tuned,
                "state": run.state if comparison.directory is not None else "open",
                "error": run.error if comparison.directory is not None else None,
                "forecast": None if run.forecast is None else vars(run.forecast),
            }
            for run in comparison.runs
        ],
    }
