"""The Python way in: `fedgraft.run(...)`, `fedgraft.compare(...)`, `fedgraft.rank(...)`, `fedgraft.load(directory)`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgraft.conduct import run_resolved
from fedgraft.errors import Fault, FedGraftError, ScenarioError
from fedgraft.launch import quieten
from fedgraft.preparation import check_strategy
from fedgraft.progress import Event, listening
from fedgraft.runs import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedgraft.clustering.records import Clustering
    from fedgraft.ranking.candidates import Named
    from fedgraft.ranking.records import Ranking
    from scenarios.comparison.records import Comparison
    from scenarios.schema import Scenario


def run(
    scenario: str | Path | Scenario,
    overrides: Sequence[str] = (),
    *,
    runtime: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    on_event: Callable[[Event], None] | None = None,
    verbose: bool = False,
) -> Run:
    """Run a scenario and return the finished run.

    Args:
        scenario: a file, the name of a shipped scenario, or a `Scenario`.
        overrides: `key.sub=value`, as `--set` takes them; not with a `Scenario`.
        runtime: `inline`, `ray` or `flower`, instead of the scenario's.
        out: the run directory; default: a new one below `runs/`.
        resume: go on with the run in `out`, or else with the newest unfinished run of this scenario.
        on_event: called with each progress event.
        verbose: let Flower and Ray log to the terminal.

    Raises:
        FedGraftError: anything that the user can mend; the text says what to do.
    """
    resolved = resolve(scenario, overrides, runtime)
    if resolved.compare is not None:
        text = f"came a comparison of many runs; make them with: fedgraft compare {scenario_name(scenario)}"
        raise ScenarioError(resolved.name, [Fault("compare", f"{text}; without them: fedgraft run --set compare=null")])
    quieten(verbose)
    check_strategy(resolved)
    with listening(on_event) if on_event else contextlib.nullcontext():
        return run_resolved(resolved, out, resume=resume, verbose=verbose)


def compare(
    scenario: str | Path | Scenario,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    jobs: int | None = None,
    ray: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    verbose: bool = False,
) -> Comparison:
    """Make all runs of a scenario's comparison and return it, finished and failed runs alike.

    Args:
        scenario: a file, the name of a shipped scenario, or a `Scenario`; it has a `compare` block.
        overrides: `key.sub=value`, as `--set` takes them; not with a `Scenario`.
        out: its directory; default: a new one below `comparisons/`.
        resume: go on with the comparison in `out`, or else with the newest unfinished one of this scenario.
        dry_run: only say what the runs will cost, after a short try of each contender.
        jobs: runs that are made side by side; default: what is soonest.
        ray: the address of a Ray cluster that makes them, `auto` or `host:port`; default: this machine.
        on_event: called with each event of the sweep.
        verbose: let Flower and Ray log to the terminal.

    Raises:
        FedGraftError: anything that the user can mend, before a run is made; the text says what to do.
    """
    from scenarios.sweep.conduct import compare as conduct
    from scenarios.sweep.options import Options

    options = Options(Path(out) if out is not None else None, resume, dry_run, jobs, ray, verbose)
    return conduct(scenario, overrides, options, on_event or (lambda event: None))


def rank(
    scenario: str | Path | Scenario,
    overrides: Sequence[str] = (),
    *,
    backbones: Named | None = None,
    cuts: str | Sequence[str] | None = None,
    baselines: bool = True,
    runtime: str | None = None,
    out: str | Path | None = None,
    on_event: Callable[[Event], None] | None = None,
    verbose: bool = False,
) -> Ranking:
    """Rank backbones and cuts for a scenario's task before anything is trained.

    Args:
        scenario: a file, the name of a shipped scenario, or a `Scenario`.
        overrides: `key.sub=value`, as `--set` takes them; not with a `Scenario`.
        backbones: names or blocks as the scenario's `backbone:` has them; default: the scenario's, and all known ones
            whose weights are on this machine.
        cuts: `all`, or names of cuts; default: that of each backbone's settings.
        baselines: also score raw pixels and random weights, which learned nothing.
        runtime: `inline` or `ray`, instead of the scenario's.
        out: where `ranking.json` and the winner's `scenario.yaml` are written; default: a new folder below `rankings/`.
        on_event: called with each progress event.
        verbose: let Flower and Ray log to the terminal.

    Raises:
        FedGraftError: anything that the user can mend; the text says what to do.
    """
    from fedgraft.ranking.conduct import Options
    from fedgraft.ranking.conduct import rank as conduct

    options = Options(backbones, cuts, baselines, Path(out) if out is not None else None, verbose)
    resolved = resolve(scenario, overrides, runtime)
    with listening(on_event) if on_event else contextlib.nullcontext():
        return conduct(resolved, options)


def cluster(
    scenario: str | Path | Scenario,
    overrides: Sequence[str] = (),
    *,
    clusters: int,
    components: int | None = None,
    starts: int = 8,
    steps: int = 300,
    labelled: int = 0,
    first: NDArray[Any] | None = None,
    runtime: str | None = None,
    out: str | Path | None = None,
    on_event: Callable[[Event], None] | None = None,
    verbose: bool = False,
) -> Clustering:
    """Find clusters in clients' features without labels, and the principal axes, from sums.

    Args:
        scenario: a file, the name of a shipped scenario, or a `Scenario`.
        overrides: `key.sub=value`, as `--set` takes them; not with a `Scenario`.
        clusters: how many.
        components: principal axes onto which features are projected first; default: they stay as they are.
        starts: how many draws of first centres are tried.
        steps: at most.
        labelled: how many samples of each class and client say which classes clusters are.
        first: `(num_starts, clusters, num_features)` first centres, in place of drawn ones.
        runtime: `inline` or `ray`, instead of the scenario's.
        out: where the files are written; default: a new folder below `clusterings/`.
        on_event: called with each progress event.
        verbose: let Flower and Ray log to the terminal.

    Raises:
        FedGraftError: anything that the user can mend; the text says what to do.
    """
    from fedgraft.clustering.conduct import Options
    from fedgraft.clustering.conduct import cluster as conduct
    from server.clusters import Wanted

    wanted = Wanted(clusters, components, starts, steps, labelled, first)
    resolved = resolve(scenario, overrides, runtime)
    with listening(on_event) if on_event else contextlib.nullcontext():
        return conduct(resolved, Options(wanted, Path(out) if out is not None else None, verbose))


def scenario_name(scenario: str | Path | Scenario) -> str:
    """Return how a user names a scenario on the command line."""
    return str(scenario) if isinstance(scenario, str | Path) else scenario.name


def load(directory: str | Path) -> Run:
    """Return the run in a directory.

    Raises:
        StoreError: there is none.
    """
    found = Run(Path(directory).absolute())
    _ = found.facts
    return found


def resolve(scenario: str | Path | Scenario, overrides: Sequence[str] = (), runtime: str | None = None) -> Scenario:
    """Return a scenario with all defaults filled in.

    Raises:
        ScenarioError: it can't be used; carries every fault.
    """
    from scenarios.loader import load_scenario
    from scenarios.schema import Scenario

    if runtime is not None:
        overrides = [*overrides, f"runtime={runtime}"]
    if isinstance(scenario, Scenario):
        if overrides:
            raise FedGraftError("overrides go with a scenario file; for a Scenario use scenario.model_copy(update=...)")
        return scenario
    return load_scenario(scenario, overrides)
