"""Writing short forms out, naming blocks that go without saying, and making relative paths absolute.

All of it happens on located trees, so that a fault still names the file and the line that a value came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from fedgraft.settings_files.located import Located
from fedgraft.settings_files.shape import Shape

_Act: TypeAlias = Callable[[Located, Shape, object], Located]


def expand(node: Located, shape: Shape, default: object = None) -> Located:
    """Write short forms out: where a block with a name may stand, a bare text becomes `{name: text}`."""
    if isinstance(node.value, str) and shape.takes_short_form:
        return Located({"name": node}, node.place)
    return _below(node, shape, expand)


def complete(node: Located, shape: Shape, default: object = None) -> Located:
    """Add the name of the block that a mapping without one means: the default's.

    `optimizer: {learning_rate: 0.01}` speaks of the default optimiser; in what is laid over the file, of the file's.
    """
    if shape.laid_over:
        return node
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
