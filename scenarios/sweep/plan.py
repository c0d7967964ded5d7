"""From a scenario's `compare` block to runs: every combination, each checked as a scenario of its own."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedgraft.errors import Fault, ScenarioError, listed, nearest
from fedgraft.settings_files.faults import shape_at
from fedgraft.settings_files.forms import absolute_paths, expand
from fedgraft.settings_files.load import settled
from fedgraft.settings_files.located import Located, Place, key_text
from fedgraft.settings_files.shape import Block, Shape
from scenarios.comparison.names import contender_names, flat
from scenarios.comparison.records import PlannedRun
from scenarios.loader import ReadScenario, read_scenario, scenario_error
from scenarios.merging import lay, parse_key
from scenarios.schema import Scenario
from scenarios.sweep.settings import CompareSettings

CIRCUMSTANCES = ("data", "attack", "availability")
"""Blocks of a scenario that say under which conditions contenders meet, unless `conditions` says otherwise."""

REFUSED = {
    "name": "the runs' folders are named by what differs",
    "seed": "give compare.seeds",
    "extends": "name one scenario to extend, at the top of the file",
    "compare": "a comparison does not hold another",
    "tracking": "all runs of a comparison are tracked alike",
}
"""Keys that no grid can hold, and what to do instead."""

_SHAPE = Shape("", blocks=(Block(Scenario),))
_LONGEST_ID = 120


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
    """

    shown_as: str
    scenario: Scenario
    condition_keys: tuple[str, ...]
    baseline: str
    runs: tuple[SweepRun, ...]

    @property
    def settings(self) -> CompareSettings:
        """The scenario's `compare` block."""
        return compare_of(self.scenario, self.shown_as)

    @property
    def contenders(self) -> tuple[str, ...]:
        """The contenders' names, in the order of the plan."""
        return tuple(dict.fromkeys(run.planned.contender for run in self.runs))


@dataclass(frozen=True)
class _Combination:
    """What one contender changes under one condition, by key as it was written."""

    settings: Mapping[str, Located]
    origin: str

    @property
    def place(self) -> Place:
        """Where the last of its values stands: of an entry of the list, in that entry."""
        return list(self.settings.values())[-1].place

    def plain(self) -> dict[str, Any]:
        return {key: value.plain() for key, value in self.settings.items()}


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
    scenario, faults = settled(read.tree, Scenario, read.faults)
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
    if found := _key_faults(block):
        raise scenario_error(shown_as, [*faults, *found])
    _check_number(shown_as, settings, at)
    combinations = list(_combinations(block))
    keys = list(dict.fromkeys(key for one in combinations for key in one.settings))
    condition_keys, more = _condition_keys(settings, keys, at)
    if more:
        raise scenario_error(shown_as, [*faults, *more])
    conditions = [_condition(one, condition_keys, base) for one in combinations]
    names = _contender_names(combinations, condition_keys, base)
    labels = _condition_labels(conditions)
    scenarios, more = _scenarios(combinations, [_title(*pair) for pair in zip(names, labels, strict=True)], base)
    more += _twins(combinations, scenarios)
    baseline = settings.baseline or names[0]
    if baseline not in names:
        text = f"came '{baseline}'; the contenders are {listed(dict.fromkeys(names))}{nearest(baseline, names)}"
        place = (block.child("baseline") or block).place
        more.append(Fault("compare.baseline", text, place.line, place.source))
    known = {(fault.key, fault.line, fault.source) for fault in faults}
    faults += [fault for fault in more if (fault.key, fault.line, fault.source) not in known]
    if scenario is None or faults:
        raise scenario_error(shown_as, faults)
    absolute = _with_absolute_paths(combinations, base)
    combinations = [
        replace(one, settings={key: _replaced(value, absolute) for key, value in one.settings.items()})
        for one in combinations
    ]
    whole = CompareSettings.model_validate_json(json.dumps(_replaced(block, absolute).plain()))
    scenario = scenario.model_copy(update={"compare": whole})
    stems = _stems(names, labels)
    runs = tuple(
        SweepRun(
            PlannedRun(f"{stem}--seed={seed}", name, condition, combination.plain(), seed),
            one.model_copy(update={"seed": seed}),
        )
        for seed in settings.all_seeds
        for combination, condition, name, stem, one in _by_condition(combinations, conditions, names, stems, scenarios)
        if one is not None
    )
    return Plan(shown_as, scenario, condition_keys, baseline, runs)


def _of_scenario(scenario: Scenario) -> ReadScenario:
    place = Place(scenario.name, None, Path.cwd())
    return ReadScenario(scenario.name, _located(scenario.model_dump(mode="json"), place), ())


def _located(value: Any, place: Place) -> Located:
    if isinstance(value, dict):
        return Located({key: _located(entry, place) for key, entry in value.items()}, place)
    if isinstance(value, list):
        return Located([_located(entry, place) for entry in value], place)
    return Located(value, place)


def _key_faults(block: Located) -> list[Fault]:
    """Return a fault for each key of the grid and the list that no scenario's setting can have."""
    faults = []
    for where, node in _given(block):
        for key, value in node.items():
            path = parse_key(key)
            place = value.place
            if path is None:
                text = f"came the key '{key}'; write it in full, such as train.batch_size"
                faults.append(Fault(where, text, place.line, place.source))
            elif path[0] in REFUSED:
                text = f"came the key '{key}', which can't be compared; {REFUSED[str(path[0])]}"
                faults.append(Fault(where, text, place.line, place.source))
    return faults


def _given(block: Located) -> Iterator[tuple[str, dict[str, Located]]]:
    """Yield the grid and each entry of the list: how it is called, and its values by key."""
    grid, entries = block.child("grid"), block.child("list")
    if grid is not None and isinstance(grid.value, dict):
        yield "compare.grid", grid.value
    if entries is not None and isinstance(entries.value, list):
        for number, entry in enumerate(entries.value):
            if isinstance(entry.value, dict):
                yield key_text(("compare", "list", number)), entry.value


def _axes(block: Located) -> dict[str, list[Located]]:
    grid = block.child("grid")
    values = grid.value if grid is not None and isinstance(grid.value, dict) else {}
    return {key: value.value for key, value in values.items() if isinstance(value.value, list)}


def _check_number(shown_as: str, settings: CompareSettings, at: Place) -> None:
    """Refuse a plan of too many runs before it is made."""
    sizes = {key: len(values) for key, values in settings.grid.items()}
    number = math.prod(sizes.values()) if sizes else 0
    for entry in settings.list:
        number += math.prod(size for key, size in sizes.items() if key not in entry)
    number *= len(settings.all_seeds) if isinstance(settings.seeds, tuple) else settings.seeds
    if number > settings.most_runs:
        axes = " x ".join(f"{size} of {key}" for key, size in sizes.items())
        text = f"{number:,} runs ({axes}, with each of {len(settings.all_seeds):,} seeds), more than most_runs"
        text = f"{text} {settings.most_runs:,}; leave values out, or raise compare.most_runs"
        raise scenario_error(shown_as, [Fault("compare", text, at.line, at.source)])


def _combinations(block: Located) -> Iterator[_Combination]:
    """Yield what each contender changes under each condition: the grid's, then those of the list."""
    axes = _axes(block)
    if axes:
        yield from _crossed(axes, {}, "compare.grid")
    for where, entry in _given(block):
        if where != "compare.grid":
            yield from _crossed({key: values for key, values in axes.items() if key not in entry}, entry, where)


def _crossed(
    axes: Mapping[str, Sequence[Located]], fixed: Mapping[str, Located], origin: str
) -> Iterator[_Combination]:
    for values in itertools.product(*axes.values()):
        yield _Combination({**dict(zip(axes, values, strict=True)), **fixed}, origin)


def _condition_keys(settings: CompareSettings, keys: Sequence[str], at: Place) -> tuple[tuple[str, ...], list[Fault]]:
    """Return which of the compared keys make conditions, and a fault for each that is named and not compared."""
    wanted = settings.conditions if settings.conditions is not None else CIRCUMSTANCES
    found = tuple(key for key in keys if any(key == name or key.startswith(f"{name}.") for name in wanted))
    faults = []
    for number, name in enumerate(settings.conditions or ()):
        if not any(key == name or key.startswith(f"{name}.") for key in keys):
            text = f"came '{name}', which is not compared; compared are {listed(keys)}{nearest(name, keys)}"
            faults.append(Fault(key_text(("compare", "conditions", number)), text, at.line, at.source))
    return found, faults


def _condition(one: _Combination, keys: Sequence[str], base: Located) -> dict[str, Any]:
    """Return the condition of a combination: its own values, or where it has none the scenario's."""
    return {key: _value(one, key, base) for key in keys}


def _value(one: _Combination, key: str, base: Located) -> Any:
    if key in one.settings:
        return one.settings[key].plain()
    here: Located | None = base
    for part in parse_key(key) or ():
        here = here.child(part) if here is not None else None
    return None if here is None else here.plain()


def _contender_names(combinations: Sequence[_Combination], conditions: Sequence[str], base: Located) -> list[str]:
    """Return the name of each combination's contender, by what differs between contenders."""
    own = [_named({key: value for key, value in one.settings.items() if key not in conditions}) for one in combinations]
    strategy = base.child("strategy")
    usual = flat({"strategy": strategy.plain()}) if strategy is not None else {"strategy.name": "fedavg"}
    if not any("strategy.name" in entry for entry in own):
        return contender_names([{"strategy.name": usual.get("strategy.name"), **entry} for entry in own])
    return contender_names([{**({} if "strategy.name" in entry else usual), **entry} for entry in own])


def _condition_labels(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a short text for each condition: `alpha=0.1 attack=sign-flip`; empty where there is only one."""
    if all(condition == conditions[0] for condition in conditions):
        return [""] * len(conditions)
    return [" ".join(_label(key, value) for key, value in condition.items()) for condition in conditions]


def _label(key: str, value: Any) -> str:
    short = key.removesuffix(".name").rpartition(".")[2]
    if not isinstance(value, dict):
        return f"{short}={'none' if value is None else value}"
    if "name" in value:
        return f"{short}={value['name']}"
    return f"{short}={' '.join(_label(*entry) for entry in value.items())}"


def _named(settings: Mapping[str, Located]) -> dict[str, Any]:
    """Return settings as dotted keys, short forms written out: `strategy: fedavg` is `strategy.name: fedavg`."""
    tree = Located({}, Place("", None, Path()))
    for key, value in settings.items():
        path = parse_key(key) or ()
        nested = value
        for part in reversed(path):
            nested = Located({str(part): nested}, value.place)
        tree = expand(Located(_merged(tree, nested), value.place), _SHAPE)
    return flat(tree.plain())


def _merged(under: Located, over: Located) -> dict[str, Located]:
    """Lay one tree of mappings on another, without asking what their names choose."""
    merged = dict(under.value) if isinstance(under.value, dict) else {}
    for key, child in over.value.items() if isinstance(over.value, dict) else ():
        both = isinstance(child.value, dict) and key in merged and isinstance(merged[key].value, dict)
        merged[key] = Located(_merged(merged[key], child), child.place) if both else child
    return merged


def _title(name: str, condition: str) -> str:
    return f"{name}, {condition}" if condition else name


def _scenarios(
    combinations: Sequence[_Combination], titles: Sequence[str], base: Located
) -> tuple[list[Scenario | None], list[Fault]]:
    """Return the scenario of each combination, None where it has faults; equal faults of many are one."""
    from fedgraft.api import check_strategy

    found: list[Scenario | None] = []
    first: dict[Fault, str] = {}
    others: dict[Fault, int] = {}
    sound: set[str] = set()
    for one, title in zip(combinations, titles, strict=True):
        scenario, faults = _scenario(one, base)
        if scenario is not None:
            parts = scenario.model_dump_json(include={"strategy", "init", "calibrate", "head"})
            if parts not in sound:
                try:
                    check_strategy(scenario)
                    sound.add(parts)
                except ScenarioError as error:
                    at = one.place
                    faults = [replace(fault, line=at.line, source=at.source) for fault in error.faults]
        found.append(None if faults else scenario)
        for fault in faults:
            if fault in first:
                others[fault] += 1
            else:
                first[fault], others[fault] = title, 0
    return found, [replace(fault, message=_of_runs(fault, first[fault], others[fault])) for fault in first]


def _of_runs(fault: Fault, title: str, others: int) -> str:
    more = f" and {others} more" if others else ""
    return f"{fault.message} (in the run '{title}'{more})"


def _scenario(one: _Combination, base: Located) -> tuple[Scenario | None, list[Fault]]:
    tree, faults = _laid(one, base)
    return settled(tree, Scenario, faults)


def _laid(one: _Combination, base: Located) -> tuple[Located, list[Fault]]:
    """Return what a combination makes of the scenario; a fault for each item that a list does not have."""
    tree, faults = base, list[Fault]()
    for key, value in one.settings.items():
        try:
            tree = lay(tree, parse_key(key) or (), value, _SHAPE)
        except IndexError as error:
            faults.append(Fault(key, str(error), value.place.line, value.place.source))
    return tree, faults


def _with_absolute_paths(combinations: Sequence[_Combination], base: Located) -> dict[int, Located]:
    """Return the values that hold relative paths, by their identity, with absolute ones in their place."""
    found = {}
    for one in combinations:
        tree, _ = _laid(one, base)
        for key, value in one.settings.items():
            shape = shape_at(parse_key(key) or (), tree, Scenario)
            if id(value) not in found and shape is not None:
                whole = expand(value, shape)
                absolute = absolute_paths(whole, shape)
                if absolute.plain() != whole.plain():
                    found[id(value)] = absolute
    return found


def _replaced(node: Located, found: Mapping[int, Located]) -> Located:
    """Return a tree with some of its nodes replaced."""
    if id(node) in found:
        return found[id(node)]
    if isinstance(node.value, dict):
        return replace(node, value={key: _replaced(child, found) for key, child in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[_replaced(child, found) for child in node.value])
    return node


def _twins(combinations: Sequence[_Combination], scenarios: Sequence[Scenario | None]) -> list[Fault]:
    """Return a fault for each combination that is the same run as an earlier one."""
    seen: dict[str, _Combination] = {}
    faults: dict[str, Fault] = {}
    for one, scenario in zip(combinations, scenarios, strict=True):
        if scenario is None:
            continue
        earlier = seen.setdefault(scenario.model_dump_json(), one)
        if earlier is not one:
            text = f"{_flow(one.plain())} is the same run as {_flow(earlier.plain())}; keep one of them"
            faults.setdefault(one.origin, Fault(one.origin, text, one.place.line, one.place.source))
    return list(faults.values())


def _flow(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace('"', "")


def _stems(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return the folder name of each combination, but for the seed; each is another."""
    taken: dict[str, int] = {}
    stems = []
    for name, label in zip(names, labels, strict=True):
        stem = "--".join(_file_name(part) for part in (name, label) if part)[:_LONGEST_ID]
        taken[stem] = taken.get(stem, 0) + 1
        stems.append(stem if taken[stem] == 1 else f"{stem}-{taken[stem]}")
    return stems


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=+-]+", "-", text).strip("-.") or "run"


def _by_condition(
    combinations: Sequence[_Combination],
    conditions: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    stems: Sequence[str],
    scenarios: Sequence[Scenario | None],
) -> Iterator[tuple[_Combination, dict[str, Any], str, str, Scenario | None]]:
    """Yield the combinations with all contenders of one condition together: they share a partition."""
    rows = list(zip(combinations, map(dict, conditions), names, stems, scenarios, strict=True))
    order: dict[str, int] = {}
    for _, condition, *_ in rows:
        order.setdefault(json.dumps(condition, sort_keys=True), len(order))
    yield from sorted(rows, key=lambda row: order[json.dumps(row[1], sort_keys=True)])
