"""Who makes the runs: this process, worker processes beside it, or a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedgraft.errors import Fault, ScenarioError, StoreError, listed
from scenarios.comparison.records import Comparison, Forecast, condition_key
from scenarios.sweep.bench import Listener, Task, make_here
from scenarios.sweep.costs import fitting_jobs
from scenarios.sweep.options import Options
from scenarios.sweep.plan import Plan
from scenarios.sweep.tuning import costs_of_tries, open_searches
from scenarios.sweep.workers import make_in_workers


@dataclass(frozen=True)
class Benches:
    """Where runs are made side by side.

    Attributes:
        number: of runs at a time, at most.
        make: makes runs and tells of each, no more at a time than there are.
    """

    number: int
    make: Callable[[Sequence[Task], Listener], None]


@contextlib.contextmanager
def benches_for(comparison: Comparison, planned: Plan, options: Options) -> Iterator[Benches]:
    """Yield where the runs are made: here, in worker processes, or on a Ray cluster, joined for the block."""
    log = placed(comparison) / "workers.log"
    threads = max(run.scenario.runtime.threads for run in planned.runs)
    if options.ray is not None:
        from scenarios.sweep.on_ray import cluster, free_places, kept_environment, make_on_ray

        with cluster(options.ray, options.verbose):
            number = options.jobs or free_places(threads)
            environment = kept_environment()
            yield Benches(number, lambda tasks, heard: make_on_ray(tasks, number, heard, log, threads, environment))
        return
    number = _jobs(planned, _costs(comparison, planned), options.jobs)

    def make(tasks: Sequence[Task], heard: Listener) -> None:
        jobs = min(number, len(tasks))
        if jobs > 1:
            make_in_workers(tasks, jobs, heard, log)
        else:
            make_here(tasks, heard)

    yield Benches(number, make)


def check_runtime(planned: Plan) -> None:
    """Refuse runs that would start processes of their own on each machine of a cluster.

    Raises:
        ScenarioError: says what to set.
    """
    others = {run.scenario.runtime.name for run in planned.runs} - {"inline"}
    if others:
        text = f"came {listed(sorted(others))}; a Ray cluster makes whole runs, each in one process: set runtime=inline"
        raise ScenarioError(planned.shown_as, [Fault("runtime", text)])


def placed(comparison: Comparison) -> Path:
    """Return where a comparison lies.

    Raises:
        StoreError: nowhere.
    """
    if comparison.directory is None:
        raise StoreError("the comparison lies nowhere")
    return comparison.directory


def _costs(comparison: Comparison, planned: Plan) -> list[Forecast | None]:
    """Return what all that is to be made will cost: the tries of searches, and the comparison's own runs."""
    return [run.forecast for run in comparison.runs if run.state != "finished"] + tuning_costs(comparison, planned)


def tuning_costs(comparison: Comparison, planned: Plan) -> list[Forecast | None]:
    """Return what each try of the searches that are still to be made will cost."""
    costs: list[Forecast | None] = []
    if planned.settings.tune is not None:
        of = {(run.contender, condition_key(run.condition)): run.forecast for run in comparison.runs}
        for search in open_searches(planned.searches, comparison.tuning):
            whole = of[search.contender, condition_key(search.condition)]
            costs += costs_of_tries(search, planned.settings.tune, whole)
    return costs


def _jobs(planned: Plan, costs: list[Forecast | None], wanted: int | None) -> int:
    """Return how many processes make the runs at most: one where each run starts processes of its own."""
    runtimes = {run.scenario.runtime.name for run in planned.runs}
    if runtimes != {"inline"}:
        return 1
    threads = max(run.scenario.runtime.threads for run in planned.runs)
    return wanted or fitting_jobs(costs, threads)
