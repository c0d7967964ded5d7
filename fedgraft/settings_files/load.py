"""Loading one file of settings: read, validate, report every fault at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from fedgraft.errors import Fault, SettingsError, listed
from fedgraft.settings import Settings
from fedgraft.settings_files.faults import faults_of
from fedgraft.settings_files.forms import absolute_paths, complete, expand
from fedgraft.settings_files.located import Located, Place, read_yaml
from fedgraft.settings_files.shape import Block, Shape

LARGEST_FILE = 10_000_000
"""Bytes; a longer file holds no settings."""

_S = TypeVar("_S", bound=Settings)


@dataclass(frozen=True)
class FileKind:
    """What a kind of file is called in the texts of faults.

    Attributes:
        word: `scenario`.
        keys: the keys that it has at least, in words.
        example: one line of such a file.
    """

    word: str
    keys: str
    example: str


def load_settings(path: Path, model: type[_S], kind: FileKind) -> _S:
    """Load and validate one file of settings.

    Returns:
        The settings, immutable, with all defaults filled in and their paths absolute.

    Raises:
        SettingsError: with every fault, each with its full key, its line, what came and what is allowed.
    """
    shape = Shape("", blocks=(Block(model),))
    tree, faults = read_file(path, str(path), kind)
    settings = None
    if tree is not None and isinstance(tree.value, dict):
        settings, faults = settled(complete(expand(tree, shape), shape), model, faults)
    if settings is None:
        raise SettingsError(str(path), in_order(str(path), faults))
    return settings


def settled(tree: Located, model: type[_S], faults: Sequence[Fault] = ()) -> tuple[_S | None, list[Fault]]:
    """Return what a tree says, checked, with defaults and absolute paths; None if there are faults.

    Args:
        tree: a file as it was read.
        model: the settings model of the whole.
        faults: of reading; those of checking come after them.
    """
    found = list(faults)
    settings, more = validate(tree, model)
    already = {(fault.key, fault.line, fault.source) for fault in found}  # a refused value, now null
    found += [fault for fault in more if (fault.key, fault.line, fault.source) not in already]
    if settings is not None and not found:  # paths last, so that faults show them as the user wrote them
        settings, found = validate(absolute_paths(tree, Shape("", blocks=(Block(model),))), model)
    return (None if found else settings), found


def validate(tree: Located, model: type[_S]) -> tuple[_S | None, list[Fault]]:
    """Validate a tree as JSON would be: strictly, except that lists become tuples."""
    try:
        return model.model_validate_json(json.dumps(tree.plain())), []
    except ValidationError as error:
        return None, faults_of(error, tree, model)


def in_order(shown_as: str, faults: Sequence[Fault]) -> list[Fault]:
    """Order the faults by place, the file's own first, and name a fault's source only where it is another."""
    faults = sorted(dict.fromkeys(faults), key=lambda fault: (fault.source != shown_as, fault.source, fault.line or 0))
    return [replace(fault, source=None) if fault.source == shown_as else fault for fault in faults]


def read_file(path: Path, shown_as: str, kind: FileKind) -> tuple[Located | None, list[Fault]]:
    """Read one file as a located mapping; a fault if it is none."""

    def fault(message: str, line: int | None = None) -> tuple[None, list[Fault]]:
        return None, [Fault("", message, line, shown_as)]

    if path.is_dir():
        inside = sorted(entry.name for entry in path.glob("*.y*ml"))
        return fault(f"a folder, not a file; name one {kind.word}{f' in it: {listed(inside)}' if inside else ''}")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            return fault(f"more than {LARGEST_FILE:,} bytes; a {kind.word} has a few thousand")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return fault(f"not UTF-8 text (byte {error.start}); a {kind.word} is a YAML file, saved as UTF-8")
    except OSError as error:
        return fault(f"can't be read: {error.strerror or error}")
    if "\0" in text:
        return fault(f"a binary file; a {kind.word} is a YAML file, saved as UTF-8")
    tree, found = read_yaml(text, Place(shown_as, None, path.absolute().parent))
    faults = [Fault(entry.key, entry.message, entry.line, shown_as) for entry in found]
    empty = f"the file is empty; a {kind.word} has at least the keys {kind.keys}"
    if tree is None and not faults:
        return fault(empty)
    if tree is not None and not isinstance(tree.value, dict):
        if tree.value is None and not faults:
            return fault(empty)
        return fault(f"holds no keys; a {kind.word} is a mapping such as `{kind.example}`", tree.place.line)
    return tree, faults
