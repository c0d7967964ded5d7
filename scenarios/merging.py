"""Laying one scenario over another: short forms, `extends`, `--set`, relative paths.

All of it happens on located trees, so that a fault still names the file and the line that a value came from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from fedgraft.errors import Fault
from scenarios.located import KeyPath, Located, Place, key_text, read_yaml
from scenarios.shape import Shape

_Act: TypeAlias = Callable[[Located, Shape, object], Located]


def expand(node: Located, shape: Shape, default: object = None) -> Located:
    """Write short forms out: where a block with a name may stand, a bare text becomes `{name: text}`."""
    if isinstance(node.value, str) and shape.takes_short_form:
        return Located({"name": node}, node.place)
    return _below(node, shape, expand)


def complete(node: Located, shape: Shape, default: object = None) -> Located:
    """Add the name of the block that a mapping without one means: the default's.

    `optimizer: {learning_rate: 0.01}` speaks of the default optimiser.
    """
    name = getattr(default, "name", None)
    if isinstance(node.value, dict) and "name" not in node.value and isinstance(name, str) and shape.takes_short_form:
        node = Located({"name": Located(name, node.place), **node.value}, node.place)
    return _below(node, shape, complete)


def absolute_paths(node: Located, shape: Shape, default: object = None) -> Located:
    """Make relative paths absolute, from the folder of the file that gave them; `~` is the home folder."""
    if isinstance(node.value, str) and shape.path is not None:
        if not node.value or node.value in shape.path.words or node.value in shape.words:
            return node
        try:
            path = Path(node.value).expanduser()
        except RuntimeError:  # a home folder that nobody has: the path is refused where it is used
            path = Path(node.value)
        return replace(node, value=str((node.place.folder / path).absolute()))
    return _below(node, shape, absolute_paths)


def _below(node: Located, shape: Shape, act: _Act) -> Located:
    """Apply `act(child, its shape, its default)` to all children whose shape is known."""
    if isinstance(node.value, list) and shape.item is not None:
        return replace(node, value=[act(child, shape.item, None) for child in node.value])
    if not isinstance(node.value, dict):
        return node
    if not shape.blocks:
        item = shape.item
        if item is None:
            return node
        return replace(node, value={key: act(child, item, None) for key, child in node.value.items()})
    name = node.value.get("name")
    block = shape.block_for(name.value if name is not None else None)
    if block is None:
        return node
    keys = block.keys
    return replace(
        node,
        value={
            key: act(child, keys[key].shape, keys[key].default) if key in keys else child
            for key, child in node.value.items()
        },
    )


def merge(under: Located, over: Located, *, top: bool = True) -> Located:
    """Lay `over` on `under`: mappings merge key by key, everything else replaces.

    A mapping whose `name` changes replaces the whole, since the old block's keys mean nothing in the new one. The
    name of the scenario itself (`top`) chooses no block.
    """
    if not isinstance(under.value, dict) or not isinstance(over.value, dict):
        return over
    old, new = under.value.get("name"), over.value.get("name")
    if not top and old is not None and new is not None and old.value != new.value:
        return over
    merged = dict(under.value)
    for key, child in over.value.items():
        merged[key] = merge(merged[key], child, top=False) if key in merged else child
    return Located(merged, over.place)


def override(tree: Located, text: str, shape: Shape) -> tuple[Located, list[Fault]]:
    """Apply one `key.sub=value`; its value is YAML, `sizes[2]` or `sizes.2` stands for an item of a list.

    It counts like a file that extends the scenario with this one key, except that a list's item can be set alone.
    """
    source = f"--set {text}"
    place = Place(source, None, Path.cwd())
    key, equals, value_text = text.partition("=")
    path = _parse_key(key.strip())
    if not equals or path is None:
        example = "train.batch_size=20"
        return tree, [Fault("", f"came '{text}'; write key=value with the full key, such as {example}", None, source)]
    value, faults = read_yaml(value_text, place, lines=False)
    if faults:
        return tree, [
            Fault(key_text(path) + (fault.key and f".{fault.key}"), fault.message, None, source) for fault in faults
        ]
    try:
        over = _over(tree, path, value or Located(None, place), place)
    except IndexError as error:
        return tree, [Fault(key_text(path), str(error), None, source)]
    return complete(merge(tree, expand(over, shape)), shape), []


def _parse_key(key: str) -> KeyPath | None:
    """Read `a.b[0].c` as `("a", "b", 0, "c")`; None if it is no key."""
    dotted = re.sub(r"\[(\d+)\]", r".\1", key)
    parts = dotted.split(".")
    if not all(parts) or any(bracket in dotted for bracket in "[]"):
        return None
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _over(under: Located | None, path: KeyPath, value: Located, place: Place) -> Located:
    """Return the tree with `value` alone at `path`, to be laid on `under`; lists are copied from it."""
    if not path:
        return value
    part, rest = path[0], path[1:]
    if under is not None and isinstance(under.value, list):
        if not isinstance(part, int) or part >= len(under.value):
            count = len(under.value)
            raise IndexError(f"came the index {part}; the list has {count} items, 0 to {count - 1}")
        items = list(under.value)
        items[part] = merge(items[part], _over(items[part], rest, value, place), top=False)
        return Located(items, place)
    below = under.child(str(part)) if under is not None else None
    return Located({str(part): _over(below, rest, value, place)}, place)
