"""Reading YAML so that every key and every list item keeps the line where it stands."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from fedgraft.errors import Fault

Scalar: TypeAlias = str | int | float | bool | None
KeyPath: TypeAlias = tuple[str | int, ...]

LARGEST_TREE = 1_000_000
"""Values in one file; only aliases of aliases come near it."""

DEEPEST = 50
"""Blocks and lists within each other; a scenario has about five."""

TOO_DEEP = "the values are nested too deep to be read"

_TAG = "tag:yaml.org,2002:"
_CORE_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)
"""The core schema of YAML 1.2: `1e-3` is a number, `no` and `12:30` are text (PyYAML speaks 1.1)."""


class CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the plain values of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's way to start without 1.1's)


class CoreDumper(yaml.SafeDumper):
    """Writes what `CoreLoader` reads: quotes exactly the text that would be read as something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal values out in full; `&id001` in a scenario helps nobody."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Escape text that a terminal couldn't show; PyYAML alone folds U+0085 into a blank."""
        return self.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


CoreDumper.add_representer(str, CoreDumper.represent_text)

for _name, _pattern, _first in _CORE_RESOLVERS:
    for _class in (CoreLoader, CoreDumper):
        _class.add_implicit_resolver(
            _TAG + _name, re.compile(f"^(?:{_pattern})$"), [*_first, *([""] if _name == "null" else [])]
        )


@dataclass(frozen=True)
class Place:
    """Where a value was given: a file as the user knows it (or an override), a line, the folder of the file."""

    source: str
    line: int | None
    folder: Path


@dataclass(frozen=True)
class Located:
    """A value with its place; the children of a mapping or list are located too."""

    value: dict[str, Located] | list[Located] | Scalar
    place: Place

    def plain(self) -> Any:
        """Return the value as bare dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, part: str | int) -> Located | None:
        """Return what stands under a key or an index, or None."""
        if isinstance(self.value, dict) and isinstance(part, str):
            return self.value.get(part)
        if isinstance(self.value, list) and isinstance(part, int) and 0 <= part < len(self.value):
            return self.value[part]
        return None

    def deepest(self, path: KeyPath) -> Located:
        """Return the value at `path`, or its nearest ancestor that exists."""
        here = self
        for part in path:
            below = here.child(part)
            if below is None:
                break
            here = below
        return here


def key_text(path: KeyPath) -> str:
    """Write a path as the user would: `data.partition.sizes[2]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def shown(value: object, limit: int = 60) -> str:
    """Show what came, short, as it might stand in the file, with its kind: `'0.1' (text)`."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value!r}" if math.isfinite(value) else f".{value!r}".replace(".-", "-.")
    if isinstance(value, str):
        text = value if value.isprintable() else value.encode("unicode_escape").decode()
        return f"'{text if len(text) <= limit else text[: limit - 1] + '…'}' (text)"
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"{text} ({'a block of keys' if isinstance(value, dict) else 'a list'})"


def read_yaml(text: str, place: Place, *, lines: bool = True) -> tuple[Located | None, list[Fault]]:
    """Read one YAML document.

    Args:
        text: the document.
        place: the file, or the override.
        lines: whether the lines of the text mean something to the user (not those of an override).

    Returns:
        The tree (None for an empty document or one that is no YAML at all) and its faults: syntax, keys given
        twice, tags, values that no scenario can hold.
    """
    try:
        node = yaml.compose(text, Loader=CoreLoader)
    except yaml.YAMLError as error:
        return None, [_syntax_fault(error, text)]
    except RecursionError:
        return None, [Fault("", TOO_DEEP)]
    if node is None:
        return None, []
    builder = _Builder(place, lines)
    tree = builder.build(node, (), node.start_mark.line + 1, ())
    return (tree if builder.num_values <= LARGEST_TREE else None), builder.faults


def _syntax_fault(error: yaml.YAMLError, text: str) -> Fault:
    """Turn PyYAML's exception into one line: where, what was expected, and the text that stands there."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:  # a character that YAML doesn't allow: the reader knows only its position
        position = getattr(error, "position", None)
        line = text.count("\n", 0, position) + 1 if isinstance(position, int) else None
        return Fault("", f"not valid YAML: {getattr(error, 'reason', error)}", line)
    problem = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    context_mark = getattr(error, "context_mark", None)
    if context and context_mark is not None and context_mark.line != mark.line:
        context = f"{context} that begins in line {context_mark.line + 1}"
    lines = text.splitlines()
    stands = lines[mark.line].strip() if mark.line < len(lines) else ""
    hint = next((f"; {advice}" for jargon, advice in _ADVICE.items() if jargon in f"{context}: {problem}"), "")
    message = f"not valid YAML at column {mark.column + 1}: {f'{context}: ' if context else ''}{problem}"
    return Fault("", message + (f"; there stands: {stands[:60]}" if stands else "") + hint, mark.line + 1)


_ADVICE = {
    "\\t": "indent with spaces, not tabs",
    "cannot start any token": "put text that begins with this character in quotes",
    "mapping values are not allowed": "is a colon missing in the line before, or does the text need quotes?",
    "<block end>": "is the indentation right?",
    "could not find expected ':'": "is a colon missing, or the indentation wrong?",
    "quoted scalar": "is a quote left open?",
    "flow mapping": "is a comma or a closing } missing?",
    "flow sequence": "is a comma or a closing ] missing?",
}
"""Words of PyYAML's messages, and what is usually the matter."""


class _Builder:
    """Turns PyYAML's nodes into located values and collects the faults on the way."""

    def __init__(self, place: Place, lines: bool) -> None:
        self.place = place
        self.lines = lines
        self.faults: list[Fault] = []
        self.num_values = 0

    def _at(self, line: int) -> Place:
        return Place(self.place.source, line if self.lines else None, self.place.folder)

    def _fault(self, path: KeyPath, message: str, line: int) -> None:
        self.faults.append(Fault(key_text(path), message, self._at(line).line))

    def build(self, node: yaml.Node, path: KeyPath, line: int, above: Sequence[yaml.Node]) -> Located:
        """Build the value of a node; `line` is that of its key, `above` the nodes that it lies in."""
        place = self._at(line)
        self.num_values += 1
        if any(node is parent for parent in above):
            self._fault(path, "an alias that contains itself; write the value out", line)
            return Located(None, place)
        if self.num_values > LARGEST_TREE:
            if self.num_values == LARGEST_TREE + 1:
                self._fault(path, f"the file holds more than {LARGEST_TREE:,} values (aliases counted)", line)
            return Located(None, place)
        if len(path) > DEEPEST:
            self._fault(path[:1], TOO_DEEP, line)
            return Located(None, place)
        inside = (*above, node)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            items = self._entries(node, path)
            return Located(
                {key: self.build(value, (*path, key), key_line, inside) for key, value, key_line in items},
                place,
            )
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return Located(
                [
                    self.build(item, (*path, index), item.start_mark.line + 1, inside)
                    for index, item in enumerate(node.value)
                ],
                place,
            )
        return Located(self._scalar(node, path, line), place)

    def _entries(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node, int]]:
        first: dict[str, int] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value.isprintable():
                self._fault(path, "a key must be plain text, not a list or a block of keys", line)
            elif key_node.value in first:
                earlier = first[key_node.value]
                self._fault((*path, key_node.value), f"given twice, first in line {earlier}; keep one", line)
            elif key_node.value == "<<":
                self._fault((*path, "<<"), "merge keys aren't read; use `extends: other.yaml`", line)
            else:
                first[key_node.value] = line
                yield key_node.value, value, line

    def _scalar(self, node: yaml.Node, path: KeyPath, line: int) -> Scalar:
        kind = str(node.tag).removeprefix(_TAG)
        text = node.value
        if not isinstance(text, str) or kind not in _SCALARS:
            tag = f"!!{kind}" if kind != node.tag else node.tag
            self._fault(path, f"the tag {tag} is refused; write plain values, without a tag", line)
            return None
        try:
            value: Scalar = _SCALARS[kind](text)
            text.encode()
        except (ValueError, KeyError):
            self._fault(path, f"can't be read as {kind}: '{text[:60]!s}'".encode(errors="replace").decode(), line)
            return None
        return value


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _number(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Any] = {
    "str": str,
    "int": _integer,
    "float": _number,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "null": lambda text: None,
}
