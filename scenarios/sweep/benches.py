"""Who makes the runs: this process, worker processes beside it, or a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedgraft.errors import Fault, ScenarioError, StoreError, listed
from scenarios.comparison.records import Comparison, Forecast
from scenarios.sweep.bench import Listener, Task, make_here
from scenarios.sweep.costs import fitting_jobs
from scenarios.sweep.options import Options
from scenarios.sweep.plan import Plan
from scenarios.sweep.workers import make_in_workers


@dataclass(frozen=True)
class Benches:
    """Where runs are made side by side.

    Attributes:
        number: of runs at a time.
        make: makes runs and tells of each.
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
            number = min(options.jobs or free_places(threads), len(planned.runs))
            environment = kept_environment()
            yield Benches(number, lambda tasks, heard: make_on_ray(tasks, number, heard, log, threads, environment))
        return
    number = _jobs(planned, [run.forecast for run in comparison.runs if run.state != "finished"], options.jobs)
    if number == 1:
        yield Benches(1, make_here)
    else:
        yield Benches(number, lambda tasks, heard: make_in_workers(tasks, number, heard, log))


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


def _jobs(planned: Plan, costs: list[Forecast | None], wanted: int | None) -> int:
    """Return how many processes make the runs: one where each run starts processes of its own."""
    runtimes = {run.scenario.runtime.name for run in planned.runs}
    if runtimes != {"inline"}:
        return 1
    threads = max(run.scenario.runtime.threads for run in planned.runs)
    return min(wanted, max(1, len(costs))) if wanted else fitting_jobs(costs, threads)
