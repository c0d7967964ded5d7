"""Turning pydantic's findings into faults: the full key, the line, what came, what is allowed, a near miss."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from fedgraft.errors import Fault, nearest
from fedgraft.settings_files.located import KeyPath, Located, key_text, shown
from fedgraft.settings_files.shape import Block, Shape

_SAYS_ITSELF = ("value_error", "assertion_error")
_MISFITS = (
    *("_type", "_parsing", "int_from_float", "literal_error", "enum", "none_required"),
    *("greater_than", "less_than", "multiple_of", "finite_number"),
    *("too_short", "too_long", "pattern_mismatch"),
)
"""Parts of the names of pydantic's errors that say no more than what the shape's text says in plain words."""


def faults_of(error: ValidationError, tree: Located, model: type[BaseModel]) -> list[Fault]:
    """Return one fault a key; `tree` is what was validated."""
    by_path: dict[KeyPath, list[Any]] = {}
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        if detail["type"] == "missing" and isinstance(loc[-1], int):  # a list of fixed length that is too short
            loc, detail["type"] = loc[:-1], "too_short"
        path = _path(loc, tree, missing=detail["type"] == "missing") or ()
        below = (detail.get("ctx") or {}).get("key") if detail["type"] == "setting" else None
        path = (*path, *(int(part) if part.isdecimal() else part for part in below.split("."))) if below else path
        by_path.setdefault(path, []).append(detail)
    return [_fault(path, details, tree, model) for path, details in by_path.items()]


def _path(loc: Sequence[str | int], here: Located, *, missing: bool) -> KeyPath | None:
    """Find the key path in pydantic's location, which also holds the tags of unions and names of validators.

    A part that is a key (or index) of the value belongs to the path, any other part is noise, except that the
    last part of a missing key's location is that key. Returns None if the rest can't be placed.
    """
    if not loc:
        return ()
    below = here.child(loc[0])
    if below is not None:
        rest = _path(loc[1:], below, missing=missing)
        if rest is not None:
            return (loc[0], *rest)
    if len(loc) == 1:
        return (loc[0],) if missing else ()
    return _path(loc[1:], here, missing=missing)


def _fault(path: KeyPath, details: Sequence[Any], tree: Located, model: type[BaseModel]) -> Fault:
    place = tree.deepest(path).place
    return Fault(key_text(path), _message(path, details, tree, model), place.line, place.source)


def _message(path: KeyPath, details: Sequence[Any], tree: Located, model: type[BaseModel]) -> str:
    detail = details[0]
    kind = str(detail["type"])
    if kind == "extra_forbidden":
        return _unknown_key(path, tree, model)
    shape = shape_at(path, tree, model)
    if kind == "missing":
        return f"missing; expected {shape.text}" if shape is not None else "missing"
    value = tree.deepest(path).plain()
    if kind in ("union_tag_not_found", "union_tag_invalid") and shape is not None:
        return _unknown_name(value, shape)
    if kind in _SAYS_ITSELF:
        return str(detail["msg"]).partition(", ")[2] or str(detail["msg"])
    if shape is not None and all(any(part in str(d["type"]) for part in _MISFITS) for d in details):
        return f"came {shown(value)}; expected {shape.text}{_hint(value, shape)}"
    return str(detail["msg"])


def _hint(value: object, shape: Shape) -> str:
    """Say what is probably meant: a near miss among the words, or a number in quotes."""
    if not isinstance(value, str):
        return ""
    if any("number" in kind for kind in shape.kinds):
        try:
            float(value)
        except ValueError:
            pass
        else:
            return "; write the number without quotes"
    return nearest(value, shape.words)


def _unknown_name(value: object, shape: Shape) -> str:
    names = ", ".join(shape.block_names)
    if not isinstance(value, dict):
        return f"came {shown(value)}; expected one of {names}"
    if "name" not in value:
        return f"its name is missing; choose one of {names}"
    name = value["name"]
    if not isinstance(name, str):
        return f"came the name {shown(name)}; expected one of {names}"
    tail = name.partition(":")[2] or name
    candidates = [re.sub("<.*>", lambda found: tail, valid) for valid in shape.block_names]
    return f"came the name '{name}'; expected one of {names}{nearest(name, candidates)}"


def _unknown_key(path: KeyPath, tree: Located, model: type[BaseModel]) -> str:
    key = str(path[-1])
    parent = shape_at(path[:-1], tree, model)
    if parent is None:
        return "unknown key"
    name = _name(tree.deepest(path[:-1]))
    block = parent.block_for(name)
    if block is None:
        return "unknown key"
    near = nearest(key, block.keys)
    elsewhere = ""
    if not near:
        others = [other.label for other in parent.blocks if key in other.keys]
        places = [f"{key_text(place)}" for place in _places(key, Block(model), ())]
        if others:
            elsewhere = f"; '{key}' belongs to {', '.join(others)}"
        elif places:
            elsewhere = f"; there is {', '.join(places[:3])}"
    among = f"{block.label} takes" if len(parent.blocks) > 1 else "known here:"
    return f"unknown key; {among} {', '.join(block.keys)}{near}{elsewhere}"


def _places(key: str, block: Block, path: KeyPath) -> list[KeyPath]:
    """Return where in the schema a key of this name stands, once for all variants of a block."""
    found = [(*path, key)] if key in block.keys else []
    for name, entry in block.keys.items():
        for below in entry.shape.blocks:
            found += [place for place in _places(key, below, (*path, name)) if place not in found]
    return found


def _name(node: Located) -> object:
    child = node.child("name")
    return child.value if child is not None else None


def shape_at(path: KeyPath, tree: Located, model: type[BaseModel]) -> Shape | None:
    """Return the shape of what may stand at a path; names in the tree choose among blocks."""
    shape, here = Shape("", blocks=(Block(model),)), tree
    for part in path:
        block = shape.block_for(_name(here))
        if isinstance(part, str) and block is not None:
            entry = block.keys.get(part)
            if entry is None:
                return None
            shape = entry.shape
        elif shape.item is not None:
            shape = shape.item
        else:
            return None
        here = here.child(part) or Located(None, here.place)
    return shape
