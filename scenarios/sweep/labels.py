"""What contenders, conditions and runs are called: short texts, and names of folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedgraft.settings_files.forms import expand
from fedgraft.settings_files.located import Located, Place
from fedgraft.settings_files.shape import Block, Shape
from scenarios.comparison.names import contender_names as short_names
from scenarios.comparison.names import flat
from scenarios.merging import parse_key
from scenarios.schema import Scenario
from scenarios.sweep.combinations import Combination

SHAPE = Shape("", blocks=(Block(Scenario),))
"""Of a whole scenario, for short forms of its blocks."""

_LONGEST_ID = 120


def contender_names(combinations: Sequence[Combination], conditions: Sequence[str], base: Located) -> list[str]:
    """Return the name of each combination's contender, by what differs between contenders."""
    own = [dotted(one.settings, without=conditions) for one in combinations]
    strategy = base.child("strategy")
    usual = flat({"strategy": strategy.plain()}) if strategy is not None else {"strategy.name": "fedavg"}
    if not any("strategy.name" in entry for entry in own):
        return short_names([{"strategy.name": usual.get("strategy.name"), **entry} for entry in own])
    return short_names([{**({} if "strategy.name" in entry else usual), **entry} for entry in own])


def condition_labels(conditions: Sequence[Mapping[str, Any]]) -> list[str]:
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


def dotted(settings: Mapping[str, Located], without: Sequence[str] = ()) -> dict[str, Any]:
    """Return settings as dotted keys, short forms written out: `strategy: fedavg` is `strategy.name: fedavg`."""
    tree = Located({}, Place("", None, Path()))
    for key, value in settings.items():
        if key in without:
            continue
        path = parse_key(key) or ()
        nested = value
        for part in reversed(path):
            nested = Located({str(part): nested}, value.place)
        tree = expand(Located(_merged(tree, nested), value.place), SHAPE)
    return flat(tree.plain())


def _merged(under: Located, over: Located) -> dict[str, Located]:
    """Lay one tree of mappings on another, without asking what their names choose."""
    merged = dict(under.value) if isinstance(under.value, dict) else {}
    for key, child in over.value.items() if isinstance(over.value, dict) else ():
        both = isinstance(child.value, dict) and key in merged and isinstance(merged[key].value, dict)
        merged[key] = Located(_merged(merged[key], child), child.place) if both else child
    return merged


def run_title(name: str, condition: str) -> str:
    """Return what a run is called but for its seed."""
    return f"{name}, {condition}" if condition else name


def stems_of(names: Sequence[str], labels: Sequence[str]) -> list[str]:
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
