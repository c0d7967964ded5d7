"""What a `compare` block combines: the grid's combinations and the list's, and the conditions they meet in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedgraft.errors import Fault, listed, nearest
from fedgraft.settings_files.located import Located, Place, key_text
from scenarios.comparison.records import Role
from scenarios.loader import scenario_error
from scenarios.merging import parse_key
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


@dataclass(frozen=True)
class Combination:
    """What one contender changes under one condition, by key as it was written; or its clients, each alone."""

    settings: Mapping[str, Located]
    origin: str
    role: Role = "contender"
    tuned: Mapping[str, Located] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Where the last of its values stands: of an entry of the list, in that entry."""
        return list(self.settings.values())[-1].place

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {key: value.plain() for key, value in self.settings.items()}


def key_faults(block: Located) -> list[Fault]:
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


def check_number(shown_as: str, settings: CompareSettings, at: Place) -> None:
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


def combinations_of(block: Located) -> Iterator[Combination]:
    """Yield what each contender changes under each condition: the grid's, then those of the list."""
    axes = _axes(block)
    if axes:
        yield from _crossed(axes, {}, "compare.grid")
    for where, entry in _given(block):
        if where != "compare.grid":
            yield from _crossed({key: values for key, values in axes.items() if key not in entry}, entry, where)


def _crossed(axes: Mapping[str, Sequence[Located]], fixed: Mapping[str, Located], origin: str) -> Iterator[Combination]:
    for values in itertools.product(*axes.values()):
        yield Combination({**dict(zip(axes, values, strict=True)), **fixed}, origin)


def condition_keys_of(settings: CompareSettings, keys: Sequence[str], at: Place) -> tuple[tuple[str, ...], list[Fault]]:
    """Return which of the compared keys make conditions, and a fault for each that is named and not compared."""
    wanted = settings.conditions if settings.conditions is not None else CIRCUMSTANCES
    found = tuple(key for key in keys if any(key == name or key.startswith(f"{name}.") for name in wanted))
    faults = []
    for number, name in enumerate(settings.conditions or ()):
        if not any(key == name or key.startswith(f"{name}.") for key in keys):
            text = f"came '{name}', which is not compared; compared are {listed(keys)}{nearest(name, keys)}"
            faults.append(Fault(key_text(("compare", "conditions", number)), text, at.line, at.source))
    return found, faults


def condition_of(one: Combination, keys: Sequence[str], base: Located) -> dict[str, Any]:
    """Return the condition of a combination: its own values, or where it has none the scenario's."""
    return {key: _value(one, key, base) for key in keys}


def _value(one: Combination, key: str, base: Located) -> Any:
    if key in one.settings:
        return one.settings[key].plain()
    here: Located | None = base
    for part in parse_key(key) or ():
        here = here.child(part) if here is not None else None
    return None if here is None else here.plain()
