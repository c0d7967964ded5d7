"""A comparison of runs that were made one by one: who the contenders are is read off what differs."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from fedgraft.errors import FedGraftError, StoreError, listed
from fedgraft.runs import Run
from scenarios.comparison.names import contender_names, differing_keys, flat
from scenarios.comparison.records import Comparison, LeftOut, PlannedRun, condition_key

CIRCUMSTANCES = ("data", "attack", "availability")
"""Blocks of a scenario that say under which circumstances its contenders meet."""

NO_MATTER = ("name", "seed", "runtime", "shards", "features", "evaluation", "compare", "tracking")
"""Blocks that change no result but by rounding, or are accounted for otherwise."""


@dataclass(frozen=True)
class _Found:
    """A run that can be compared: its scenario's keys that matter, and where they belong."""

    run: Run
    settings: dict[str, JsonValue]

    @property
    def seed(self) -> int:
        return self.run.scenario.seed


def comparison_of_runs(paths: Sequence[str | Path], baseline: str | None = None) -> Comparison:
    """Return the comparison that some finished runs make.

    Runs that differ in a key below `data`, `attack` or `availability` are under different conditions; runs that differ
    in another are different contenders. Directories that are damaged, hold no finished run or repeat another are left
    out, and named.

    Args:
        paths: run directories.
        baseline: a contender's name; None: that of the first run.

    Raises:
        StoreError: no run is left, they have different tasks, or no contender has the baseline's name.
    """
    found, left_out = _read(paths)
    if not found:
        reasons = "\n".join(f"  {entry.path}: {entry.reason}" for entry in left_out)
        raise StoreError(f"there is no finished run to report on\n{reasons}".rstrip())
    _check_task([entry.run for entry in found])
    differing = differing_keys([entry.settings for entry in found])
    circumstances = [key for key in differing if key.split(".")[0] in CIRCUMSTANCES]
    own = [{key: value for key, value in entry.settings.items() if key not in circumstances} for entry in found]
    runs: dict[tuple[str, str, int], PlannedRun] = {}
    for number, (name, entry) in enumerate(zip(contender_names(own), found, strict=True), 1):
        condition = {key: entry.settings.get(key) for key in circumstances}
        settings = {key: entry.settings[key] for key in differing if key in entry.settings}
        run = PlannedRun(f"run-{number}", name, condition, settings, entry.seed, directory=entry.run.directory)
        twin = runs.setdefault((name, condition_key(condition), entry.seed), run)
        if twin is not run:
            left_out.append(LeftOut(run.directory, f"the same scenario and seed as {twin.directory}"))
    contenders = list(dict.fromkeys(run.contender for run in runs.values()))
    if baseline is not None and baseline not in contenders:
        raise StoreError(f"baseline: came {baseline!r}, which is none of the contenders: {listed(contenders)}")
    return Comparison(
        comparison_id=str(uuid.uuid4()),
        name=_shared_name([entry.run for entry in found]),
        baseline=baseline or contenders[0],
        metric=None,
        target=None,
        seeds=tuple(sorted({run.seed for run in runs.values()})),
        condition_keys=tuple(circumstances),
        created=max(str(entry.run.facts.get("created", "")) for entry in found),
        environment=dict(found[0].run.facts),
        runs=tuple(runs.values()),
        left_out=tuple(left_out),
        notes=_notes(found, differing),
    )


def _read(paths: Sequence[str | Path]) -> tuple[list[_Found], list[LeftOut]]:
    """Return the runs that can be used, and the directories that can't, each once."""
    found: list[_Found] = []
    left_out: list[LeftOut] = []
    for path in dict.fromkeys(Path(path).absolute() for path in paths):
        run = Run(path)
        try:
            _ = run.facts, run.summary["metric"], run.summary["task"], run.metrics
            tree = run.scenario.model_dump(mode="json")
        except FedGraftError as error:
            left_out.append(LeftOut(path, str(error).partition("\n")[0]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            left_out.append(LeftOut(path, f"damaged: {type(error).__name__}: {error}"))
        else:
            settings = {key: value for key, value in tree.items() if key not in NO_MATTER}
            found.append(_Found(run, flat(settings)))
    return found, left_out


def _check_task(runs: list[Run]) -> None:
    """Refuse runs that answer different questions: other targets can't be compared."""
    facts = [{name: run.summary.get(name) for name in ("task", "metric", "label_names")} for run in runs]
    for name in differing_keys(facts):
        values = [f"{run.directory.name}: {_cut(fact[name])}" for run, fact in zip(runs, facts, strict=True)]
        raise StoreError(f"the runs can't be compared, they differ in {name} ({listed(values, 6)}); report them apart")


def _cut(value: object) -> str:
    text = listed(map(str, value), 4) if isinstance(value, list) else str(value)
    return text


def _shared_name(runs: list[Run]) -> str:
    names = list(dict.fromkeys(run.scenario.name for run in runs))
    return names[0] if len(names) == 1 else f"{len(names)} scenarios"


def _notes(found: list[_Found], differing: Sequence[str]) -> tuple[str, ...]:
    """Say what differs between runs that were not planned together."""
    notes = []
    names = list(dict.fromkeys(entry.run.scenario.name for entry in found))
    if len(names) > 1:
        notes.append(f"The runs come from scenarios of different names: {listed(names)}.")
    if differing:
        notes.append(f"The runs differ in {listed(differing, 30)}.")
    revisions = {str(entry.run.facts.get("git_revision")) for entry in found}
    if len(revisions) > 1:
        notes.append(f"The runs were made by {len(revisions)} revisions of FedGraft.")
    return tuple(notes)
