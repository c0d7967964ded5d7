"""Where a comparison lies: a directory of its own, locked, or one that goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fedgraft.errors import FedGraftError, LaunchError, StoreError, listed
from fedgraft.features.locks import locked
from fedgraft.files import write_text
from scenarios.comparison.names import differing_keys, flat
from scenarios.comparison.records import COMPARISON_FILE, Comparison, read_comparison
from scenarios.loader import load_scenario
from scenarios.schema import Scenario
from scenarios.sweep.options import Options
from scenarios.sweep.plan import Plan
from scenarios.sweep.tuning import chosen_by_another

PARENT = "comparisons"
SCENARIO_FILE = "scenario.yaml"
MAY_DIFFER = (
    *("runtime", "tracking"),
    *(f"compare.{name}" for name in ("seeds", "baseline", "metric", "target", "most_runs", "transfer")),
)
"""Keys in which a comparison that goes on may differ from what it was begun with: no run that is there changes. The
metric only as long as no settings were chosen by it."""


@contextlib.contextmanager
def directory_of(planned: Plan, options: Options) -> Iterator[Path | None]:
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


def known_comparison(planned: Plan, directory: Path | None) -> Comparison | None:
    """Return the comparison that is there to go on with, if any.

    Raises:
        StoreError: it is of another scenario, and names the keys that differ, or was tuned by another metric.
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
    chosen_by = chosen_by_another(known.tuning, planned.settings.metric)
    if chosen_by is not None:
        raise StoreError(
            f"compare.metric: came {planned.settings.metric or 'null'}, but the settings of the comparison in "
            f"{directory} were chosen by {chosen_by}; go on with the metric that it was begun with, "
            f"{known.metric or 'null'}, or begin another comparison with --out"
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
