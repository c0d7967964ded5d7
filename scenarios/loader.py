"""Loading a scenario: find the file, follow `extends`, apply overrides, validate, report every fault at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

from fedgraft.errors import Fault, ScenarioError, listed, nearest
from fedgraft.settings import Settings
from fedgraft.settings_files.forms import complete, expand
from fedgraft.settings_files.load import FileKind, in_order, read_file
from fedgraft.settings_files.located import Located
from fedgraft.settings_files.shape import Block, Shape
from scenarios.merging import merge, override
from scenarios.schema import Scenario
from scenarios.stages import scenario_settled

SHIPPED = Path(__file__).parent
"""The folder of the scenarios that come with the package."""

SCENARIO = FileKind("scenario", "name and data", "name: my-run")

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
    read = read_scenario(source, overrides, model)
    scenario, faults = scenario_settled(read.tree, model, read.faults)
    if scenario is None:
        raise scenario_error(read.shown_as, faults)
    return scenario


@dataclass(frozen=True)
class ReadScenario:
    """A scenario as it was read, `extends` and overrides applied, nothing checked.

    Attributes:
        shown_as: the file, as the user knows it.
        tree: what it says.
        faults: of reading.
    """

    shown_as: str
    tree: Located
    faults: tuple[Fault, ...]


def read_scenario(source: str | Path, overrides: Sequence[str], model: type[Settings] = Scenario) -> ReadScenario:
    """Read a scenario, follow `extends` and apply overrides.

    Raises:
        ScenarioError: there is no such file, or it can't be read at all.
    """
    shape = Shape("", blocks=(Block(model),))
    path = find(source)
    shown_as = str(source) if path == Path(source) else str(path)
    tree, faults = _read_with_bases(path, shown_as, shape, ())
    if tree is None:
        raise scenario_error(shown_as, faults)
    for text in overrides:
        tree, more = override(tree, text, shape)
        faults += more
    return ReadScenario(shown_as, tree, tuple(faults))


def scenario_error(shown_as: str, faults: Sequence[Fault]) -> ScenarioError:
    """Return the error of some faults, in the order of their places."""
    return ScenarioError(shown_as, in_order(shown_as, faults))


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
    layer, faults = read_file(path, shown_as, SCENARIO)
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
