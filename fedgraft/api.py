"""The Python way in: `fedgraft.run(...)`, `fedgraft.compare(...)`, `fedgraft.rank(...)`, `fedgraft.load(directory)`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgraft.errors import Fault, FedGraftError, ScenarioError, StoreError
from fedgraft.events import follower
from fedgraft.files import write_text
from fedgraft.progress import Event, listening, report
from fedgraft.runs import Run
from fedgraft.submission import RunFacts, Submission

if TYPE_CHECKING:
    from flwr.serverapp import ServerApp
    from numpy.typing import NDArray

    from fedgraft.clustering.records import Clustering
    from fedgraft.ranking.candidates import Named
    from fedgraft.ranking.records import Ranking
    from fedgraft.simulation.ray_session import RaySession
    from scenarios.comparison.records import Comparison
    from scenarios.schema import Scenario
    from strategies.user import UserStrategy

SWITCHED_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Nothing phones home, from this process or one that it starts."""

SHARDS_A_HOST = 4
"""Shards for each of several hosts where the scenario leaves their number open: enough to spread work evenly."""

IGNORED_WHEN_RESUMING = frozenset({"runtime", "tracking"})
"""Keys of a scenario that may differ between the parts of a resumed run: they change no number."""


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


def run_resolved(
    resolved: Scenario,
    out: str | Path | None,
    *,
    resume: bool = False,
    verbose: bool = False,
    pictures: bool = True,
    keep_data: bool = False,
) -> Run:
    """Run a scenario that has been checked, and return the finished run.

    Args:
        resolved: the scenario.
        out: the run directory; None: a new one below `runs/`.
        resume: go on with the run in `out`, or else with the newest unfinished run of this scenario.
        verbose: let Flower and Ray log to the terminal.
        pictures: draw `accuracy.png` and `partition.png`, which takes most of a second.
        keep_data: use the samples that this process has read for an earlier run, without looking whether their files
            have changed since.

    Raises:
        FedGraftError: anything that the user can mend; the text says what to do.
    """
    from server.tracking import check_installed

    check_installed(resolved.tracking)
    with contextlib.ExitStack() as stack:
        directory, resuming = _directory(resolved, out, resume)
        done = Run(directory)
        if resuming and done.finished:
            report("note", text=f"the run in {directory} is finished already")
            return done
        try:
            session, room = begin_ray(resolved, stack, verbose)
            resolved = with_shards(resolved, done.scenario.shards if resuming else None, room)
            if session is not None:
                session.start(math.ceil(num_hosts(resolved, room) * session.settings.cpus_per_host))
            prepared, feature_dim = prepare(resolved, keep_data)
        except BaseException:
            _remove_if_empty(directory)
            raise
        facts = RunFacts(
            run_id=str(done.facts["run_id"]) if resuming else str(uuid.uuid4()),
            directory=str(directory),
            resume=resuming,
            num_hosts=num_hosts(resolved, room),
            threads=resolved.runtime.threads,
            feature_dim=feature_dim,
            device=resolved.runtime.device,
            prepared_seconds=prepared,
            resident=resolved.runtime.name != "flower",
            pictures=pictures,
        )
        _start(resolved, Submission(resolved.model_dump_json(), facts), session, verbose)
    return done


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


def check_strategy(scenario: Scenario) -> None:
    """Refuse a strategy that does not make such a head, or one of Flower's that it does not have.

    Raises:
        ScenarioError: says what there is.
    """
    if scenario.stages is not None:
        for number, part in enumerate(scenario.in_stages()):
            with _in_stage(number):
                check_strategy(part)
        return
    from strategies.flower import FlowerStrategy
    from strategies.user import UserStrategy

    if isinstance(scenario.strategy, UserStrategy):
        _check_user_strategy(scenario.strategy, scenario.name)
    for key, strategy in (
        ("strategy", scenario.strategy),
        ("init", scenario.init),
        ("calibrate", scenario.calibrate),
    ):
        if strategy is not None and scenario.head.name not in strategy.heads:
            kinds = " or ".join(strategy.heads)
            a = "an" if kinds[0] in "aeiou" else "a"
            text = f"came {scenario.head.name}, but {key} {strategy.name} makes {a} {kinds} head; set head: {kinds}"
            raise ScenarioError(scenario.name, [Fault("head", text)])

    if isinstance(scenario.strategy, FlowerStrategy):
        from server.flower_strategy import UnpackedStrategy

        UnpackedStrategy.of(scenario.strategy)


@contextlib.contextmanager
def _in_stage(number: int) -> Iterator[None]:
    """Let faults of the strategy that are found in the block be told as those of a stage."""
    try:
        yield
    except ScenarioError as error:
        faults = [
            replace(fault, key=f"stages[{number}].{fault.key}") if fault.key.startswith("strategy") else fault
            for fault in error.faults
        ]
        raise ScenarioError(error.source, faults) from error


def _check_user_strategy(strategy: UserStrategy, scenario: str) -> None:
    """Load a strategy from the user's file and run one round dry.

    Raises:
        ScenarioError: says what is wrong with it.
    """
    from server.dry_round import check_by_a_dry_round
    from strategies.user import forget

    forget()
    if not Path(strategy.file).is_absolute():
        text = f"came '{strategy.file}'; a scenario that is made in Python needs the absolute path"
        raise ScenarioError(scenario, [Fault("strategy.file", text)])
    try:
        check_by_a_dry_round(strategy.mine)
    except ValueError as error:
        raise ScenarioError(scenario, [Fault("strategy", str(error))]) from error


def num_hosts(scenario: Scenario, room: int | None = None) -> int:
    """Return how many processes speak for the clients: at most one a shard, if that number is known.

    Args:
        scenario: the scenario.
        room: for how many a cluster has room; by default as many as this machine has cores.
    """
    if scenario.runtime.name == "inline":
        return 1
    wanted = scenario.runtime.hosts or room or usable_cores()
    return wanted if scenario.shards is None else min(scenario.shards, wanted)


def runtime_line(scenario: Scenario) -> str:
    """Return a line about where the clients would run.

    Raises:
        LaunchError: Ray is not installed, or nobody answers at its address.
    """
    from fedgraft.simulation.forecast import forecast

    return forecast(scenario.runtime, num_hosts(scenario), with_shards(scenario).shards or 1)


def usable_cores() -> int:
    """Return the cores that this process may use; a batch system may have given it a few of many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def with_shards(scenario: Scenario, recorded: int | None = None, room: int | None = None) -> Scenario:
    """Return the scenario with its number of shards: its own, a resumed run's, or what fits the number of hosts."""
    if scenario.shards is not None:
        return scenario
    number = num_hosts(scenario, room)
    fitting = SHARDS_A_HOST * number if number > 1 else 1
    return scenario.model_copy(update={"shards": recorded or fitting})


def prepare(scenario: Scenario, keep_data: bool = False) -> tuple[dict[str, float], int]:
    """Divide the samples and compute their features, or find both as kept.

    The hosts would do it too; here it is done once, with its progress shown, before they start.

    Returns:
        Seconds by phase, and the length of a feature vector.
    """
    from fedgraft.workspace import open_workspace

    if not keep_data:
        open_workspace.cache_clear()
    seconds = {}
    if scenario.runtime.name != "inline" and scenario.shards == 1 and scenario.runtime.hosts != 1:
        report("note", text="shards is 1, so one process trains all clients; more shards use more processes")
    started = time.perf_counter()
    report("phase", name="data")
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    scenario.server.check_cohort(workspace.federation.num_clients, scenario.name)
    for note in workspace.federation.notes:
        report("note", text=note)
    report("partition", federation=workspace.federation)
    seconds["data"] = time.perf_counter() - started
    started = time.perf_counter()
    report("phase", name="features")
    feature_dim = int(workspace.features.shape[1])
    check_cuts(scenario)
    for part in scenario.in_stages():
        cut = None if part.unfreeze is None else part.unfreeze.cut_at(1)
        if part.unfreeze is not None and cut is not None:
            workspace.unfrozen(cut, part.unfreeze)
    seconds["features"] = time.perf_counter() - started
    return seconds, feature_dim


def check_cuts(scenario: Scenario) -> None:
    """Refuse blocks to train, or modules to adapt, that the backbone does not have.

    Raises:
        ScenarioError: says which cuts there are.
        ModelError: says which modules there are, past the cuts of a schedule.
    """
    from fedgraft.models.registry import describe
    from fedgraft.models.unfreeze_settings import fault_of_stages

    unfreezes = [part.unfreeze for part in scenario.in_stages()]
    if any(unfreeze is not None for unfreeze in unfreezes):
        info = describe(scenario.backbone)
        fault = fault_of_stages(unfreezes, info.cuts, info.cut)
        if fault is not None:
            number, key, text = fault
            place = "" if scenario.stages is None else f"stages[{number}]."
            raise ScenarioError(scenario.name, [Fault(f"{place}{key}", text)])
        for unfreeze in unfreezes:
            if unfreeze is not None and unfreeze.adds and unfreeze.moves:
                from server.unfreezing import check_targets

                check_targets(scenario.backbone, unfreeze)


def quieten(verbose: bool) -> None:
    """Switch telemetry off, and keep Flower's and Ray's logs from the terminal unless asked for."""
    os.environ.update(SWITCHED_OFF)
    for name in ("flwr", "ray", "timm", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.ERROR)


def load_apps() -> None:
    """Load both apps and torch, so that a process which makes many runs waits for them once, before the first."""
    for name in ("torch", "clients.app", "server.app"):
        importlib.import_module(name)


def begin_ray(scenario: Scenario, stack: contextlib.ExitStack, verbose: bool) -> tuple[RaySession | None, int | None]:
    """Return the connection to Ray, if the runtime is `ray`, and for how many hosts somebody's cluster has room.

    A cluster is joined now, since the number of hosts depends on it; a Ray of our own is started later.
    """
    if scenario.runtime.name != "ray":
        return None, None
    from fedgraft.simulation.ray_session import RaySession

    session = stack.enter_context(RaySession(scenario.runtime, verbose))
    if session.own:
        return session, None
    session.start(0)
    session.wait()
    return session, session.free_hosts()


def _start(scenario: Scenario, submission: Submission, session: RaySession | None, verbose: bool) -> None:
    """Start both apps in the scenario's runtime and wait for the end."""
    if scenario.runtime.name == "flower":
        _start_flower(submission, scenario.runtime.cpus_per_host, verbose)
        return
    from server.app import app as server_app

    start_here(server_app, submission, session, verbose)


def start_here(server_app: ServerApp, submission: Submission, session: RaySession | None, verbose: bool) -> None:
    """Run a ServerApp in this process, and the ClientApp here too or in Ray's actors; forget its data in the end.

    Args:
        server_app: Flower's.
        submission: what is run.
        session: Ray, started, or None for the runtime `inline`.
        verbose: let Flower and Ray log to the terminal.
    """
    if session is not None:
        from fedgraft.simulation.ray_grid import run_on_ray
        from fedgraft.workspace import open_workspace

        quieten(verbose)  # once more: Flower sets its own level when it is imported
        kept = {"XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]} if "XDG_CACHE_HOME" in os.environ else {}
        config = {"scenario": submission.to_run_config()}
        log = Path(submission.run.directory) / "ray.log"
        try:
            run_on_ray(
                session, server_app, "clients.app:app", submission.run.num_hosts, config, SWITCHED_OFF | kept, log
            )
        finally:
            open_workspace.cache_clear()
        return
    from clients.app import app as client_app
    from clients.host import forget_hosts
    from fedgraft.simulation.inline import run_inline

    quieten(verbose)  # once more: Flower sets its own level when it is imported
    try:
        run_inline(server_app, client_app, {"scenario": submission.to_run_config()})
    finally:
        forget_hosts()


def _start_flower(submission: Submission, cpus_per_host: float, verbose: bool) -> None:
    """Have Flower's simulation runtime run both apps."""
    from fedgraft.simulation.flower import run_in_flower

    directory = Path(submission.run.directory)
    follow = follower(directory / "events.jsonl")
    outcome = run_in_flower(
        {"scenario": submission.to_run_config()},
        submission.run.num_hosts,
        cpus_per_host,
        verbose=verbose,
        on_poll=follow,
        log_file=directory / "flower.log",
    )
    follow()
    if outcome.status != "completed":
        raise FedGraftError(f"{outcome.details}\n(Flower's log: {directory / 'flower.log'})")


def _directory(scenario: Scenario, out: str | Path | None, resume: bool) -> tuple[Path, bool]:
    """Return the run directory, checked to be writable, and whether there is a run to go on with."""
    from server.run_directory import new_directory

    parent = Path("runs").absolute()
    if resume:
        found = Path(out).absolute() if out else _newest_unfinished(parent, scenario)
        if found is not None and (found / "run.json").exists():
            _check_same(found, scenario)
            return found, True
        path = found or new_directory(parent, scenario.name)
        place = f"run in {path}" if found else f"unfinished run of this scenario below {parent}"
        report("note", text=f"there is no {place} to go on with; it starts from the beginning")
    else:
        path = Path(out).absolute() if out else new_directory(parent, scenario.name)
        if (path / "run.json").exists():
            raise StoreError(
                f"{path} already holds a run; give another folder with --out, or --resume to go on with it"
            )
    probe = path / ".writable"
    write_text(probe, "")
    probe.unlink()
    return path, False


def _remove_if_empty(directory: Path) -> None:
    """Leave no empty folder behind when a run could not begin."""
    with contextlib.suppress(OSError):
        directory.rmdir()
        if directory.parent.name == "runs":
            directory.parent.rmdir()


def _newest_unfinished(parent: Path, scenario: Scenario) -> Path | None:
    """Return the newest unfinished run of exactly this scenario, or None."""
    found = [path.parent for path in parent.glob(f"{scenario.name}-*/run.json") if not Run(path.parent).finished]
    same = []
    for path in found:
        with contextlib.suppress(FedGraftError):  # a run of another release is none of ours
            if not _differing(path, scenario):
                same.append(path)
    return max(same, key=lambda path: path.stat().st_mtime) if same else None


def _differing(path: Path, scenario: Scenario) -> list[str]:
    """Return the full keys in which a run's scenario differs from another, as far as they matter."""
    before, now = Run(path).scenario.model_dump(), scenario.model_dump()
    ignored = IGNORED_WHEN_RESUMING | ({"shards"} if scenario.shards is None else frozenset())
    return [key for key in _changed(before, now) if key.partition(".")[0] not in ignored]


def _changed(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    keys = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            keys += _changed(old, new, f"{prefix}{key}.")
        elif old != new:
            keys.append(prefix + key)
    return keys


def _check_same(path: Path, scenario: Scenario) -> None:
    differing = _differing(path, scenario)
    if differing:
        raise StoreError(
            f"the run in {path} was started with another scenario (other: {', '.join(differing)}); "
            f"resume with its own: fedgraft run {path / 'scenario.yaml'} --out {path} --resume"
        )
