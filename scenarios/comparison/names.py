"""Short names that tell contenders apart: `fedavg`, `fedprox mu=0.1`, `fedavg init=ridge`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

Flat = Mapping[str, JsonValue]
"""A scenario's keys, dotted, with their values; no value is a mapping."""


def flat(tree: Mapping[str, JsonValue], above: str = "") -> dict[str, JsonValue]:
    """Return nested settings as dotted keys: `{"strategy": {"mu": 1}}` is `{"strategy.mu": 1}`."""
    found: dict[str, JsonValue] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = value
    return found


def differing_keys(settings: Sequence[Flat]) -> list[str]:
    """Return the keys whose values, or whose being there, are not the same in all, in the order of their appearance."""
    keys = dict.fromkeys(key for entry in settings for key in entry)
    return [key for key in keys if len({_text(entry, key) for entry in settings}) > 1]


def contender_names(settings: Sequence[Flat]) -> list[str]:
    """Return a name for each; equal settings have equal names, different ones different names.

    The strategy's name stands first, where there is more than one. Of the other keys those are named that tell
    contenders of the same strategy apart, and no key twice that says the same.
    """
    differing = differing_keys(settings)
    ordered = sorted(differing, key=lambda key: (key != "strategy.name", not key.endswith(".name"), _place(key)))
    short = {key: _short(key, differing) for key in differing}
    names = [""] * len(settings)
    _name(list(range(len(settings))), ordered, settings, short, names)
    if all(names):
        return names
    # one stands for the rest, with nothing that it has and others lack: name the strategy, which all share
    return [f"{entry.get('strategy.name', 'all')} {name}".strip() for name, entry in zip(names, settings, strict=True)]


def _name(
    places: list[int], keys: list[str], settings: Sequence[Flat], short: Mapping[str, str], names: list[str]
) -> None:
    """Extend the names of the settings at some places, by the first key that splits them, then within each part."""
    for number, key in enumerate(keys):
        parts: dict[str, list[int]] = {}
        for place in places:
            parts.setdefault(_text(settings[place], key), []).append(place)
        if len(parts) == 1:
            continue
        for part in parts.values():
            value = settings[part[0]].get(key)
            if value is not None:
                text = _value(value) if key == "strategy.name" else f"{short[key]}={_value(value)}"
                for place in part:
                    names[place] = f"{names[place]} {text}".strip()
            _name(part, keys[number + 1 :], settings, short, names)
        return


def _place(key: str) -> int:
    """Return where a key belongs in a name: parameters of the strategy first."""
    return 0 if key.startswith("strategy.") else 1


def _short(key: str, others: Sequence[str]) -> str:
    """Return the last part of a key that tells it apart from the others; `init.name` is `init`."""
    key, others = key.removesuffix(".name"), [other.removesuffix(".name") for other in others]
    parts = key.split(".")
    for count in range(1, len(parts)):
        tail = ".".join(parts[-count:])
        if sum(other == tail or other.endswith(f".{tail}") for other in others) == 1:
            return tail
    return key


def _value(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text(entry: Flat, key: str) -> str:
    """Return a text of a value that tells values apart; a key that is not there counts as null."""
    return json.dumps(entry.get(key), sort_keys=True)
