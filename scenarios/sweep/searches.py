"""What is to be tuned before a comparison: a search for each contender under each condition, checked as runs are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import JsonValue

from fedgraft.errors import Fault, listed, nearest
from fedgraft.settings_files.faults import shape_at
from fedgraft.settings_files.located import Located, Place
from scenarios.merging import lay, parse_key
from scenarios.schema import Scenario
from scenarios.stages import scenario_settled
from scenarios.sweep.alone import NO_TRAINING
from scenarios.sweep.combinations import REFUSED, Combination
from scenarios.sweep.labels import SHAPE, dotted
from scenarios.sweep.tune_settings import RangeSettings, TuneSettings

Space: TypeAlias = Mapping[str, RangeSettings | tuple[Any, ...]]
"""Key -> what it may be."""


@dataclass(frozen=True)
class Search:
    """What is searched for one contender under one condition.

    Attributes:
        contender: its name.
        condition: key -> value.
        stem: the name of its folder.
        scenario: with the search's own seed.
        space: what is searched.
    """

    contender: str
    condition: dict[str, JsonValue]
    stem: str
    scenario: Scenario
    space: Space


def with_settings(scenario: Scenario, values: Mapping[str, Any]) -> tuple[Scenario | None, list[Fault]]:
    """Return a resolved scenario with some keys changed; None if it can't be used so, and why."""
    place = Place(scenario.name, None, Path.cwd())
    tree = located(scenario.model_dump(mode="json"), place)
    for key, value in values.items():
        tree = lay(tree, parse_key(key) or (), located(value, place), SHAPE)
    return scenario_settled(tree, Scenario)


def located(value: Any, place: Place) -> Located:
    """Return plain values as a tree that stands at one place."""
    if isinstance(value, dict):
        return Located({key: located(entry, place) for key, entry in value.items()}, place)
    if isinstance(value, list | tuple):
        return Located([located(entry, place) for entry in value], place)
    return Located(value, place)


def space_of(tune: TuneSettings, one: Combination, scenario: Scenario) -> dict[str, RangeSettings | tuple[Any, ...]]:
    """Return what is searched for a contender: keys that its scenario has and that it does not set itself."""
    own = dotted(one.settings)
    tree = located(scenario.model_dump(mode="json"), one.place)
    return {
        key: values
        for key, values in tune.space.items()
        if shape_at(parse_key(key) or (), tree, Scenario) is not None
        and not (key.startswith("train.") and scenario.strategy.most_rounds is not None)  # a closed form trains nothing
        and not any(name == key or name.startswith(f"{key}.") for name in own)
    }


def tune_faults(
    contenders: Iterable[tuple[Combination, str, Scenario]], tune: TuneSettings, block: Located
) -> list[Fault]:
    """Return a fault for each key of the space that can't be searched, and each of its values that is refused.

    Args:
        contenders: what each changes, its name, and its scenario.
        tune: the settings.
        block: `compare`, as it stands in the file.
    """
    there = list(contenders)
    staged = [name for _, name, scenario in there if scenario.stages is not None]
    if staged:
        text = f"came beside the stages of {listed(staged)}, each with settings of its own; compare without tune"
        return [Fault("compare.tune", text, block.place.line, block.place.source)]
    space = (block.child("tune") or block).child("space") or block
    faults = []
    for key, values in tune.space.items():
        place = (space.child(key) or space).place
        where = f"compare.tune.space.{key}"
        path = parse_key(key)
        if path is None or path[0] in (*REFUSED, *NO_TRAINING):
            text = "can't be searched; expected a key of training or strategy, in full: train.optimizer.learning_rate"
            faults.append(Fault(where, text, place.line, place.source))
            continue
        searched = [(name, scenario) for one, name, scenario in there if key in space_of(tune, one, scenario)]
        if not searched:
            text = "no contender has this key, or each sets it itself, so there is nothing to search"
            known = [name for _, _, scenario in there for name in dotted_keys(scenario)]
            faults.append(Fault(where, f"{text}{nearest(key, known)}", place.line, place.source))
        faults += _refused(key, values, searched, Fault(where, "", place.line, place.source))
    return faults


def dotted_keys(scenario: Scenario) -> list[str]:
    """Return the keys of how a scenario trains and combines."""
    found = dotted(located(scenario.model_dump(mode="json"), Place("", None, Path())).value)  # type: ignore[arg-type]
    return [key for key in found if key.split(".")[0] not in (*REFUSED, *NO_TRAINING)]


def _refused(
    key: str, values: RangeSettings | tuple[Any, ...], searched: list[tuple[str, Scenario]], fault: Fault
) -> list[Fault]:
    """Return a fault for each value that some contender's scenario refuses; equal ones once."""
    tried = (values.low, values.high) if isinstance(values, RangeSettings) else values
    found: dict[str, str] = {}
    for name, scenario in searched:
        for value in tried:
            for entry in with_settings(scenario, {key: value})[1]:
                found.setdefault(entry.message, name)
    return [Fault(fault.key, f"{text} (for {name})", fault.line, fault.source) for text, name in found.items()]


def unjudged_faults(baseline: str, own_answers: Iterable[str], metric: str | None, block: Located) -> list[Fault]:
    """Return a fault if the metric is of a global head, and the baseline has none that is trained as a whole."""
    part, _, name = (metric or "").partition("/")
    if part not in ("central", "validation") or baseline not in own_answers:
        return []
    place = (block.child("metric") or block).place
    text = (
        f"came '{metric}', but the baseline {baseline} answers with its clients' own heads, which it does not judge; "
        f"take clients/{name}, or another baseline than {listed([baseline])}"
    )
    return [Fault("compare.metric", text, place.line, place.source)]
