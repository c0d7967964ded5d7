"""Laying one scenario over another: `extends` and `--set`.

All of it happens on located trees, so that a fault still names the file and the line that a value came from.
"""

from __future__ import annotations

import re
from pathlib import Path

from fedgraft.errors import Fault
from fedgraft.settings_files.forms import complete, expand
from fedgraft.settings_files.located import KeyPath, Located, Place, key_text, read_yaml
from fedgraft.settings_files.shape import Shape


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
    path = parse_key(key.strip())
    if not equals or path is None:
        example = "train.batch_size=20"
        return tree, [Fault("", f"came '{text}'; write key=value with the full key, such as {example}", None, source)]
    value, faults = read_yaml(value_text, place, lines=False)
    if faults:
        return tree, [
            Fault(key_text(path) + (fault.key and f".{fault.key}"), fault.message, None, source) for fault in faults
        ]
    try:
        return lay(tree, _dotted_last(path, shape), value or Located(None, place), shape), []
    except IndexError as error:
        return tree, [Fault(key_text(path), str(error), None, source)]


def lay(tree: Located, path: KeyPath, value: Located, shape: Shape) -> Located:
    """Return the tree with a value laid on what stands at a path, as a file that extends it would.

    Raises:
        IndexError: the path leads to an item that a list does not have; says how many there are.
    """
    return complete(merge(tree, expand(_over(tree, path, value, value.place), shape)), shape)


def _dotted_last(path: KeyPath, shape: Shape) -> KeyPath:
    """Return the path with one key for all that stands below a mapping of free keys: `compare.grid.data.source`.

    Such a mapping's keys may have dots of their own; what is below its values has to be given with them.
    """
    for depth, part in enumerate(path):
        if "mapping" in shape.kinds:
            words = [word for word in path[depth:] if isinstance(word, str)]
            return (*path[:depth], ".".join(words), *path[depth + len(words) :])
        block = shape.block_for(None)
        entry = block.keys.get(str(part)) if block is not None else None
        below = entry.shape if entry is not None else shape.item
        if below is None:
            return path
        shape = below
    return path


def parse_key(key: str) -> KeyPath | None:
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
