"""Conducts one run: its folder, new or to go on with, what is prepared, and both apps until they end."""

from __future__ import annotations

import contextlib
import math
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgraft.errors import FedGraftError, StoreError
from fedgraft.files import write_text
from fedgraft.launch import begin_ray, num_hosts, start, with_shards
from fedgraft.preparation import prepare
from fedgraft.progress import report
from fedgraft.runs import Run
from fedgraft.submission import RunFacts, Submission

if TYPE_CHECKING:
    from scenarios.schema import Scenario


IGNORED_WHEN_RESUMING = frozenset({"runtime", "tracking"})
"""Keys of a scenario that may differ between the parts of a resumed run: they change no number."""


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
        start(resolved, Submission(resolved.model_dump_json(), facts), session, verbose)
    return done


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
