"""Each combination as a scenario of its own, checked: all faults of all runs at once, each told once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedgraft.errors import Fault, ScenarioError
from fedgraft.settings_files.faults import shape_at
from fedgraft.settings_files.forms import absolute_paths, expand
from fedgraft.settings_files.located import Located
from scenarios.merging import lay, parse_key
from scenarios.schema import Scenario
from scenarios.stages import scenario_settled
from scenarios.sweep.combinations import Combination
from scenarios.sweep.labels import SHAPE


def scenarios_of(
    combinations: Sequence[Combination], titles: Sequence[str], base: Located
) -> tuple[list[Scenario | None], list[Fault]]:
    """Return the scenario of each combination, None where it has faults; equal faults of many are one."""
    from fedgraft.preparation import check_strategy

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


def _scenario(one: Combination, base: Located) -> tuple[Scenario | None, list[Fault]]:
    tree, faults = _laid(one, base)
    return scenario_settled(tree, Scenario, faults)


def _laid(one: Combination, base: Located) -> tuple[Located, list[Fault]]:
    """Return what a combination makes of the scenario; a fault for each item that a list does not have."""
    tree, faults = base, list[Fault]()
    for key, value in (*one.settings.items(), *one.tuned.items()):
        try:
            tree = lay(tree, parse_key(key) or (), value, SHAPE)
        except IndexError as error:
            faults.append(Fault(key, str(error), value.place.line, value.place.source))
    return tree, faults


def with_absolute_paths(combinations: Sequence[Combination], base: Located) -> dict[int, Located]:
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


def replaced(node: Located, found: Mapping[int, Located]) -> Located:
    """Return a tree with some of its nodes replaced."""
    if id(node) in found:
        return found[id(node)]
    if isinstance(node.value, dict):
        return replace(node, value={key: replaced(child, found) for key, child in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[replaced(child, found) for child in node.value])
    return node


def twin_faults(combinations: Sequence[Combination], scenarios: Sequence[Scenario | None]) -> list[Fault]:
    """Return a fault for each combination that is the same run as an earlier one."""
    seen: dict[str, Combination] = {}
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
