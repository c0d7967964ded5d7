"""From a scenario's `compare` block to runs: every combination, each checked as a scenario of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedgraft.errors import Fault, ScenarioError, listed, nearest
from fedgraft.settings_files.located import Located, Place
from scenarios.comparison.records import PlannedRun, condition_key
from scenarios.loader import ReadScenario, read_scenario, scenario_error
from scenarios.schema import Scenario
from scenarios.stages import scenario_settled
from scenarios.sweep.alone import alone_names, clients_alone, transfer_faults
from scenarios.sweep.checked import replaced, scenarios_of, twin_faults, with_absolute_paths
from scenarios.sweep.combinations import (
    Combination,
    check_number,
    combinations_of,
    condition_keys_of,
    condition_of,
    key_faults,
)
from scenarios.sweep.labels import condition_labels, contender_names, run_title, stems_of
from scenarios.sweep.searches import Search, located, space_of, tune_faults, unjudged_faults
from scenarios.sweep.settings import CompareSettings
from scenarios.sweep.tune_settings import TuneSettings


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its place in the comparison, and what it runs."""

    planned: PlannedRun
    scenario: Scenario


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison, checked, in the order in which they are best run.

    Attributes:
        shown_as: the scenario file, as the user knows it.
        scenario: what all runs start from, with its `compare` block.
        condition_keys: keys of the scenario that make the conditions.
        baseline: the name of a contender.
        runs: the first seed of all contenders under all conditions, then the second seed, and so on.
        searches: what is to be tuned before, a search a contender and condition.
    """

    shown_as: str
    scenario: Scenario
    condition_keys: tuple[str, ...]
    baseline: str
    runs: tuple[SweepRun, ...]
    searches: tuple[Search, ...] = ()

    @property
    def settings(self) -> CompareSettings:
        """The scenario's `compare` block."""
        return compare_of(self.scenario, self.shown_as)

    @property
    def contenders(self) -> tuple[str, ...]:
        """The contenders' names, in the order of the plan."""
        return tuple(dict.fromkeys(run.planned.contender for run in self.runs if run.planned.role == "contender"))

    @property
    def own_answers(self) -> frozenset[str]:
        """The contenders that answer with their clients' own heads, which no part judges that is for a global one."""
        return own_answers(self.runs)


def own_answers(runs: Iterable[SweepRun]) -> frozenset[str]:
    """Return the contenders of some runs that answer with their clients' own heads."""
    contending = (run for run in runs if run.planned.role == "contender")
    return frozenset(run.planned.contender for run in contending if run.scenario.strategy.answer == "own")


def compare_of(scenario: Scenario, shown_as: str) -> CompareSettings:
    """Return a scenario's `compare` block.

    Raises:
        ScenarioError: it has none.
    """
    if scenario.compare is None:
        text = "missing; say what to compare, such as {grid: {strategy: [fedavg, ridge]}}, or run it: fedgraft run"
        raise ScenarioError(shown_as, [Fault("compare", text)])
    return scenario.compare


def plan(source: str | Path | Scenario, overrides: Sequence[str] = ()) -> Plan:
    """Return all runs of a scenario's comparison.

    Args:
        source: a path, the bare name of a shipped scenario, or a `Scenario`.
        overrides: `key.sub=value` each, as `--set` takes them; not with a `Scenario`.

    Raises:
        ScenarioError: it can't be used: carries every fault of the file and of every run's scenario.
    """
    read = read_scenario(source, overrides) if not isinstance(source, Scenario) else _of_scenario(source)
    scenario, faults = scenario_settled(read.tree, Scenario, read.faults)
    if scenario is None and any(fault.key.partition(".")[0] == "compare" for fault in faults):
        raise scenario_error(read.shown_as, faults)
    block = read.tree.child("compare")
    if block is None or not isinstance(block.value, dict):
        if scenario is not None:
            compare_of(scenario, read.shown_as)
        raise scenario_error(read.shown_as, faults)
    settings = CompareSettings.model_validate_json(json.dumps(block.plain()))
    base = Located({key: value for key, value in read.tree.value.items() if key != "compare"}, read.tree.place)  # type: ignore[union-attr]
    return _planned(read.shown_as, scenario, faults, base, block, settings)


@dataclass(frozen=True)
class _Entry:
    """One contender under one condition, or its clients alone: what it changes, how it is called, what it runs."""

    combination: Combination
    condition: dict[str, Any]
    name: str
    stem: str
    scenario: Scenario


def _planned(
    shown_as: str,
    scenario: Scenario | None,
    faults: list[Fault],
    base: Located,
    block: Located,
    settings: CompareSettings,
) -> Plan:
    """Put the plan together; each step that finds faults ends it, since the next would speak of their consequences."""
    at = block.place
    if found := [*key_faults(block), *transfer_faults(block)]:
        raise scenario_error(shown_as, [*faults, *found])
    check_number(shown_as, settings, at)
    combinations = list(combinations_of(block))
    keys = list(dict.fromkeys(key for one in combinations for key in one.settings))
    condition_keys, more = condition_keys_of(settings, keys, at)
    if more:
        raise scenario_error(shown_as, [*faults, *more])
    alone = clients_alone(combinations, block)
    names = [*contender_names(combinations, condition_keys, base), *alone_names(alone, condition_keys)]
    conditions = [condition_of(one, condition_keys, base) for one in (*combinations, *alone)]
    labels = condition_labels(conditions)
    titles = [run_title(*pair) for pair in zip(names, labels, strict=True)]
    scenarios, more = scenarios_of([*combinations, *alone], titles, base)
    more += twin_faults(combinations, scenarios[: len(combinations)])
    baseline = settings.baseline or names[0]
    of_contenders = list(zip(combinations, names, scenarios, strict=False))
    more += _faults_of_the_block(baseline, of_contenders, settings, block)
    known = {(fault.key, fault.line, fault.source) for fault in faults}
    faults += [fault for fault in more if (fault.key, fault.line, fault.source) not in known]
    if scenario is None or faults:
        raise scenario_error(shown_as, faults)
    absolute = with_absolute_paths(combinations, base)
    stems = stems_of(names, labels)
    entries = _different(
        [
            _Entry(_absolute(one, absolute), condition, name, stem, found)
            for one, condition, name, stem, found in zip(
                [*combinations, *alone], conditions, names, stems, scenarios, strict=True
            )
            if found is not None
        ],
        tuned=settings.tune is not None,
    )
    whole = CompareSettings.model_validate_json(json.dumps(replaced(block, absolute).plain()))
    runs = tuple(_run(entry, seed) for seed in settings.all_seeds for entry in _by_condition(entries))
    searches = tuple(_searches(_by_condition(entries), settings.tune))
    return Plan(shown_as, scenario.model_copy(update={"compare": whole}), condition_keys, baseline, runs, searches)


def _faults_of_the_block(
    baseline: str,
    contenders: Sequence[tuple[Combination, str, Scenario | None]],
    settings: CompareSettings,
    block: Located,
) -> list[Fault]:
    """Return the faults of baseline, metric and tuning, as far as the contenders are sound."""
    names = [name for _, name, _ in contenders]
    if baseline not in names:
        text = f"came '{baseline}'; the contenders are {listed(dict.fromkeys(names))}{nearest(baseline, names)}"
        place = (block.child("baseline") or block).place
        return [Fault("compare.baseline", text, place.line, place.source)]
    sound = [(one, name, scenario) for one, name, scenario in contenders if scenario is not None]
    own = [name for _, name, scenario in sound if scenario.strategy.answer == "own"]
    faults = unjudged_faults(baseline, own, settings.metric, block)
    if settings.tune is not None and len(sound) == len(contenders):
        faults += tune_faults(sound, settings.tune, block)
    return faults


def _absolute(one: Combination, absolute: Mapping[int, Located]) -> Combination:
    return replace(one, settings={key: replaced(value, absolute) for key, value in one.settings.items()})


def _different(entries: Sequence[_Entry], tuned: bool) -> list[_Entry]:
    """Return the entries without clients alone that are the same run as a contender, or as others alone.

    Args:
        entries: all of them.
        tuned: whether contenders are tuned, so that none of them is what it is now.
    """
    contending = (entry for entry in entries if entry.combination.role == "contender" and not tuned)
    seen = {entry.scenario.model_dump_json() for entry in contending}
    kept = []
    for entry in entries:
        text = entry.scenario.model_dump_json() if entry.combination.role == "alone" else ""
        if text not in seen:
            kept.append(entry)
        seen |= {text} if text else set()
    return kept


def _run(entry: _Entry, seed: int) -> SweepRun:
    one = entry.combination
    tuned = {key: value.plain() for key, value in one.tuned.items()}
    planned = PlannedRun(
        f"{entry.stem}--seed={seed}", entry.name, entry.condition, one.plain(), seed, role=one.role, tuned=tuned
    )
    return SweepRun(planned, entry.scenario.model_copy(update={"seed": seed}))


def _searches(entries: Iterable[_Entry], tune: TuneSettings | None) -> Iterator[Search]:
    """Yield what is searched for each contender under each condition; nothing where it has nothing to search."""
    for entry in entries:
        if tune is None or entry.combination.role == "alone":
            continue
        space = space_of(tune, entry.combination, entry.scenario)
        if space:
            scenario = entry.scenario.model_copy(update={"seed": tune.seed})
            yield Search(entry.name, entry.condition, entry.stem, scenario, space)


def _by_condition(entries: Sequence[_Entry]) -> list[_Entry]:
    """Return the entries with all contenders of one condition together: they share a partition."""
    order: dict[str, int] = {}
    for entry in entries:
        order.setdefault(condition_key(entry.condition), len(order))
    return sorted(entries, key=lambda entry: order[condition_key(entry.condition)])


def _of_scenario(scenario: Scenario) -> ReadScenario:
    place = Place(scenario.name, None, Path.cwd())
    return ReadScenario(scenario.name, located(scenario.model_dump(mode="json"), place), ())
