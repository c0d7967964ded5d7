"""Loading a scenario: find the file, follow `extends`, apply overrides, validate, report every fault at once."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, overload

from pydantic import ValidationError

from fedgraft.errors import Fault, ScenarioError, listed, nearest
from fedgraft.settings import Settings
from scenarios.faults import faults_of
from scenarios.located import Located, Place, read_yaml
from scenarios.merging import absolute_paths, complete, expand, merge, override
from scenarios.schema import Scenario
from scenarios.shape import Block, Shape

SHIPPED = Path(__file__).parent
"""The folder of the scenarios that come with the package."""

LARGEST_FILE = 10_000_000
"""Bytes; a longer file is no scenario."""

_S = TypeVar("_S", bound=Settings)


@overload
def load_scenario(source: str | Path, overrides: Sequence[str] = ...) -> Scenario: ...
@overload
def load_scenario(source: str | Path, overrides: Sequence[str] = ..., *, model: type[_S]) -> _S: ...
def load_scenario(source: str | Path, overrides: Sequence[str] = (), *, model: type[Settings] = Scenario) -> Settings:
    """Load and validate a scenario.

    Args:
        source: a path, or the bare name of a shipped scenario (`quickstart`).
        overrides: `key.sub=value` each, applied in order after every `extends`; values are YAML.
        model: the settings model of the whole file.

    Returns:
        The scenario, immutable, with all defaults filled in and its paths absolute.

    Raises:
        ScenarioError: with every fault, each with its full key, its place, what came and what is allowed.
    """
    shape = Shape("", blocks=(Block(model),))
    path = find(source)
    shown_as = str(source) if path == Path(source) else str(path)
    tree, faults = _read_with_bases(path, shown_as, shape, ())
    if tree is None:
        raise _error(shown_as, faults)
    for text in overrides:
        tree, more = override(tree, text, shape)
        faults += more
    scenario, more = _validate(tree, model)
    already = {(fault.key, fault.line, fault.source) for fault in faults}  # a refused value, now null
    faults += [fault for fault in more if (fault.key, fault.line, fault.source) not in already]
    if scenario is not None and not faults:  # paths last, so that faults show them as the user wrote them
        scenario, faults = _validate(absolute_paths(tree, shape), model)
    if scenario is None or faults:
        raise _error(shown_as, faults)
    return scenario


def _validate(tree: Located, model: type[Settings]) -> tuple[Settings | None, list[Fault]]:
    """Validate a tree as JSON would be: strictly, except that lists become tuples."""
    try:
        return model.model_validate_json(json.dumps(tree.plain())), []
    except ValidationError as error:
        return None, faults_of(error, tree, model)


def _error(shown_as: str, faults: Sequence[Fault]) -> ScenarioError:
    """Order the faults by place, the file's own first, and name a fault's source only where it is another."""
    faults = sorted(dict.fromkeys(faults), key=lambda fault: (fault.source != shown_as, fault.source, fault.line or 0))
    own = [replace(fault, source=None) if fault.source == shown_as else fault for fault in faults]
    return ScenarioError(shown_as, own)


def shipped() -> tuple[tuple[str, str], ...]:
    """Return the scenarios of the package: name and first line of comment."""
    return tuple((path.stem, _description(path)) for path in sorted(SHIPPED.glob("*.yaml")))


def _description(path: Path) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#"):
            break
        if text and not text.startswith("yaml-language-server"):
            return text
    return ""


def find(source: str | Path, folder: Path | None = None) -> Path:
    """Return the file of a scenario: a shipped one by its bare name, else a path (relative to `folder`).

    Raises:
        ScenarioError: there is no such file; the shipped scenarios and near misses are listed.
    """
    text = str(source)
    names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    if text in names:
        return SHIPPED / f"{text}.yaml"
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        path = Path(text)
    path = path if folder is None else folder / path
    if text and os.path.exists(path):  # noqa: PTH110  (Path.exists raises for a name that is too long)
        return path
    wanted = path.name.removesuffix(".yaml").removesuffix(".yml")
    beside = [entry.name for entry in path.parent.glob("*.y*ml")] if text and os.path.isdir(path.parent) else []  # noqa: PTH112
    near = nearest(wanted, names) or nearest(path.name, beside)
    raise ScenarioError(text, [Fault("", f"no such file; shipped scenarios: {listed(names)}{near}")])


def _read_with_bases(
    path: Path, shown_as: str, shape: Shape, above: tuple[Path, ...]
) -> tuple[Located | None, list[Fault]]:
    """Read a file and lay it on the file that it extends, if any; `above` are the files that extend it."""
    layer, faults = _read_file(path, shown_as)
    if layer is None or not isinstance(layer.value, dict):
        return None, faults
    extends = layer.value.pop("extends", None)
    layer = expand(layer, shape)
    if extends is None:
        return complete(layer, shape), faults
    here = (*above, path.resolve())
    at = (extends.place.line, extends.place.source)
    if not isinstance(extends.value, str):
        return complete(layer, shape), [*faults, Fault("extends", "expected the path or name of one scenario", *at)]
    try:
        base = find(extends.value, path.parent)
    except ScenarioError as error:
        message = f"came '{extends.value}': {error.faults[0].message}"
        return None, [*faults, Fault("extends", message, *at)]
    if base.resolve() in here:
        circle = " -> ".join(file.name for file in (*here[here.index(base.resolve()) :], base))
        return None, [*faults, Fault("extends", f"a circle: {circle}", *at)]
    base_shown = os.path.relpath(base) if not base.is_relative_to(SHIPPED) else str(base)
    under, more = _read_with_bases(base, base_shown, shape, here)
    if under is None:
        return None, [*faults, *more]
    return complete(merge(under, layer), shape), [*faults, *more]


def _read_file(path: Path, shown_as: str) -> tuple[Located | None, list[Fault]]:
    """Read one file as a located mapping; a fault if it is none."""

    def fault(message: str, line: int | None = None) -> tuple[None, list[Fault]]:
        return None, [Fault("", message, line, shown_as)]

    if path.is_dir():
        inside = sorted(entry.name for entry in path.glob("*.y*ml"))
        return fault(f"a folder, not a file; name one scenario{f' in it: {listed(inside)}' if inside else ''}")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            return fault(f"more than {LARGEST_FILE:,} bytes; a scenario has a few thousand")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return fault(f"not UTF-8 text (byte {error.start}); a scenario is a YAML file, saved as UTF-8")
    except OSError as error:
        return fault(f"can't be read: {error.strerror or error}")
    if "\0" in text:
        return fault("a binary file; a scenario is a YAML file, saved as UTF-8")
    tree, found = read_yaml(text, Place(shown_as, None, path.absolute().parent))
    faults = [Fault(entry.key, entry.message, entry.line, shown_as) for entry in found]
    if tree is None and not faults:
        return fault("the file is empty; a scenario has at least the keys name and data")
    if tree is not None and not isinstance(tree.value, dict):
        if tree.value is None and not faults:
            return fault("the file is empty; a scenario has at least the keys name and data")
        return fault("holds no keys; a scenario is a mapping such as `name: my-run`", tree.place.line)
    return tree, faults
