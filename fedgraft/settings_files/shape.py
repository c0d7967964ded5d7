"""The shape of a settings model: which keys stand where, of which type and range, in plain words."""

from __future__ import annotations

import enum
import functools
import inspect
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Tag
from pydantic.fields import FieldInfo

from fedgraft.settings import LaidOver, PathMarker

NUMBERS = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Key:
    """One key of a block: what it may hold, what it holds by itself, and what it means."""

    name: str
    shape: Shape
    required: bool
    default: Any
    description: str
    examples: tuple[Any, ...]


@dataclass(frozen=True)
class Block:
    """A settings model: a mapping with fixed keys."""

    model: type[BaseModel]
    tag: str | None = None
    """How a block with free names is called among others: `torchvision:<Dataset>`."""

    @property
    def keys(self) -> Mapping[str, Key]:
        """Its keys, in the order of the model."""
        return _keys(self.model)

    @property
    def description(self) -> str:
        """The docstring of the model."""
        return inspect.cleandoc(self.model.__doc__ or "")

    @property
    def names(self) -> tuple[str, ...]:
        """The values of its key `name` if these are fixed: what chooses this block among others."""
        key = self.keys.get("name")
        return key.shape.words if key is not None and not key.shape.free_text else ()

    @property
    def label(self) -> str:
        """What the block is called among others: its name, or the pattern of its names."""
        return self.tag or ", ".join(self.names) or self.model.__name__

    def accepts_name(self, name: str) -> bool:
        """Whether `name` chooses this block."""
        if "name" not in self.keys:
            return False
        if not self.keys["name"].shape.free_text:
            return name in self.names
        if self.tag is not None and "<" in self.tag:
            return name.startswith(self.tag.partition("<")[0])
        pattern = self.keys["name"].shape.pattern
        return pattern is None or re.search(pattern, name) is not None


@dataclass(frozen=True)
class Shape:
    """What a key may hold; a union is all of its parts at once."""

    text: str
    blocks: tuple[Block, ...] = ()
    item: Shape | None = None
    words: tuple[str, ...] = ()
    path: PathMarker | None = None
    free_text: bool = False
    pattern: str | None = None
    kinds: tuple[str, ...] = field(default=())
    laid_over: bool = False

    def block_for(self, name: object) -> Block | None:
        """Return the block that a `name` chooses; the only block if there is one."""
        if len(self.blocks) == 1:
            return self.blocks[0]
        if not isinstance(name, str):
            return None
        found = [block for block in self.blocks if block.accepts_name(name)]
        return next((block for block in found if block.names), found[0] if found else None)

    @property
    def block_names(self) -> tuple[str, ...]:
        """The names that choose among the blocks; one with free names stands as its pattern."""
        return tuple(name for block in self.blocks for name in (block.names or (block.label,)))

    @property
    def takes_short_form(self) -> bool:
        """Whether a bare text stands for `{name: text}`."""
        named = bool(self.blocks) and all("name" in block.keys for block in self.blocks)
        return named and not self.free_text and not self.laid_over


@functools.cache
def _keys(model: type[BaseModel]) -> Mapping[str, Key]:
    return {name: _key(name, info) for name, info in model.model_fields.items()}


def _key(name: str, info: FieldInfo) -> Key:
    required = info.is_required()
    return Key(
        name=name,
        shape=shape_of(info.annotation, info.metadata),
        required=required,
        default=None if required else info.get_default(call_default_factory=True, validated_data={}),
        description=inspect.cleandoc(info.description or ""),
        examples=tuple(info.examples or ()),
    )


def shape_of(annotation: Any, metadata: Sequence[Any] = ()) -> Shape:
    """Return the shape of a type annotation with its pydantic metadata."""
    value = getattr(annotation, "__value__", None)
    if value is not None:  # a named type alias
        return shape_of(value, metadata)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return shape_of(arguments[0], [*_flat(arguments[1:]), *metadata])
    if origin in (typing.Union, types.UnionType):
        return _union([shape_of(argument, metadata) for argument in arguments])
    if origin is Literal:
        words = tuple(str(argument) for argument in arguments)
        return Shape(_one_of(arguments), words=words, kinds=("one of",))
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        words = tuple(str(member.value) for member in annotation)
        return Shape(_one_of(words), words=words, kinds=("one of",))
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        tag = next((entry.tag for entry in metadata if isinstance(entry, Tag)), None)
        return Shape(
            f"a block of keys ({', '.join(annotation.model_fields)})",
            blocks=(Block(annotation, tag),),
            laid_over=any(isinstance(entry, LaidOver) for entry in metadata),
        )
    if origin in (tuple, list, Sequence, set, frozenset):
        return _sequence(arguments, metadata)
    if origin in (dict, Mapping):
        item = shape_of(arguments[1])
        return Shape(f"a block of keys, each with {item.text}", item=item, kinds=("mapping",))
    return _leaf(annotation, metadata)


def _flat(metadata: Iterable[Any]) -> list[Any]:
    """Return metadata with those of `Field(...)` unpacked."""
    return [part for entry in metadata for part in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _one_of(values: Iterable[Any]) -> str:
    texts = ["null" if value is None else str(value) for value in values]
    return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"


def _union(parts: Sequence[Shape]) -> Shape:
    blocks = tuple(block for part in parts for block in part.blocks)
    texts = [part.text for part in parts if not part.blocks or len(blocks) == 1]
    if len(blocks) > 1:
        names = Shape("", blocks=blocks).block_names
        texts.insert(0, f"a block of keys whose name is one of {', '.join(names)}")
    if "null" in texts and any(part.item is not None for part in parts):
        texts = ["null", *(text for text in texts if text != "null")]  # "a list, each 1 or null" would mislead
    if NUMBERS[float] in texts:
        texts = [text for text in texts if text != NUMBERS[int]]
    return Shape(
        " or ".join(dict.fromkeys(texts)),
        blocks=blocks,
        item=next((part.item for part in parts if part.item is not None), None),
        words=tuple(word for part in parts for word in part.words),
        path=next((part.path for part in parts if part.path is not None), None),
        free_text=any(part.free_text for part in parts),
        pattern=next((part.pattern for part in parts if part.pattern is not None), None),
        kinds=tuple(kind for part in parts for kind in part.kinds),
    )


def _sequence(arguments: tuple[Any, ...], metadata: Sequence[Any]) -> Shape:
    item = shape_of(arguments[0])
    if len(arguments) > 1 and arguments[1] is not Ellipsis:
        return Shape(f"a list of {len(arguments)} items, each {item.text}", item=item, kinds=("list",))
    smallest = next((bound for entry in metadata if (bound := getattr(entry, "min_length", None))), None)
    count = f"a list (at least {smallest} of them)" if smallest else "a list"
    return Shape(f"{count}, each {item.text}", item=item, kinds=("list",))


def _leaf(annotation: Any, metadata: Sequence[Any]) -> Shape:
    if annotation in (None, type(None)):
        return Shape("null", kinds=("null",))
    if annotation is bool:
        return Shape("true or false", kinds=("true or false",))
    if annotation in NUMBERS:
        return Shape(NUMBERS[annotation] + _range(metadata), kinds=(NUMBERS[annotation].partition(" ")[2],))
    marker = next((entry for entry in metadata if isinstance(entry, PathMarker)), None)
    if annotation is Path or marker is not None:
        marker = marker or PathMarker()
        words = "".join(f"{word}, " for word in marker.words)
        return Shape(f"{words}{'or ' if words else ''}a path", path=marker, free_text=True, kinds=("path",))
    if annotation is str:
        pattern = next((found for entry in metadata if (found := getattr(entry, "pattern", None))), None)
        text = "text" if pattern is None else f"text that matches {pattern}"
        if pattern is None and any(getattr(entry, "min_length", None) for entry in metadata):
            text += " (not empty)"
        return Shape(text, free_text=True, pattern=pattern, kinds=("text",))
    return Shape("any value", free_text=True, kinds=("any",))


def _range(metadata: Sequence[Any]) -> str:
    """Return the range of a number in words, with a blank before it: ` above 0 and at most 1`."""
    words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}
    bounds = {name: bound for entry in metadata for name in words if (bound := getattr(entry, name, None)) is not None}
    if {"ge", "le"} <= bounds.keys():
        low, high = bounds.pop("ge"), bounds.pop("le")
        rest = [f"{words[name]} {bound}" for name, bound in bounds.items()]
        return f" from {low} to {high}" + "".join(f", {part}" for part in rest)
    parts = [f"{words[name]} {bounds[name]}" for name in words if name in bounds]
    return f" {'of ' if parts and parts[0].startswith('at ') else ''}{' and '.join(parts)}" if parts else ""
