"""The scenario reference, docs/scenario-reference.md: `python -m scenarios.reference` writes it from the models."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel

from fedgraft.settings import Settings
from fedgraft.settings_files.shape import Block, Key, Shape
from scenarios.generated import main
from scenarios.loader import shipped
from scenarios.schema import Scenario
from scenarios.writer import yaml_text

PATH = Path(__file__).parent.parent / "docs" / "scenario-reference.md"

INTRODUCTION = """\
# Scenario reference

<!-- Generated from the settings models by `python -m scenarios.reference`; edit the docstrings there. -->

A scenario is one YAML file that says what to run. Two keys are required, `name` and `data`; everything else has a
default. This is a whole scenario:

```yaml
name: my-first-run
data:
  source: digits
  partition: {name: dirichlet, clients: 20, alpha: 0.3}
```

`fedgraft run my-first-run.yaml` runs it, `fedgraft check my-first-run.yaml` only looks for faults: all of them at
once, each with its full key, the line, what came and what is allowed.

## How a file is read

- **A choice with settings of its own** is a block with a `name`: `head: {name: mlp, hidden: [128]}`. Where the
  defaults will do, the name alone is enough: `head: mlp`. A block without a name speaks of the default choice:
  `optimizer: {learning_rate: 0.01}`.
- **A scenario can extend another:** `extends: other.yaml`, a path relative to the file or the name of a shipped
  scenario. Blocks merge key by key; anything else, lists too, replaces what was there. A block whose `name` changes
  replaces the whole block.
- **The command line has the last word:** `--set data.partition.alpha=0.1`, as often as you like; the value is YAML,
  and `key[0]` is the first item of a list.
- **Relative paths** count from the folder of the file that they stand in (with `--set`: from where you are), and `~`
  is your home folder.
- **YAML 1.2:** `1e-3` is a number, `true` and `false` are the only switches; a key given twice is a fault.
- **Editors complete keys** and show this text if the first line of the file is
  `# yaml-language-server: $schema=` and the path of `scenarios/schema.json`.
"""


def reference(model: type[Settings] = Scenario) -> str:
    """Return the reference as Markdown."""
    block = Block(model)
    parts = [INTRODUCTION]
    rows = "\n".join(f"- `{name}`: {description}" for name, description in shipped())
    parts.append(f"## Shipped scenarios\n\n{rows}\n\n`extends: {shipped()[0][0]}` builds on one of them.\n")
    parts.append(f"## All keys\n\n{block.description}\n\n{_table(block, ())}")
    for key in block.keys.values():
        if key.shape.blocks:
            parts.append("\n".join(_section(key, ((key.name, {}),), 2)))
    return "\n".join(parts)


Way: TypeAlias = tuple[tuple[str, dict[str, Any]], ...]
"""The way to a block: each key, with what must stand beside it for an example to load."""


def _section(key: Key, path: Way, level: int) -> Iterator[str]:
    """Yield the section of a key that holds a block, then those of the keys below it."""
    yield f"{'#' * level} {'.'.join(name for name, _ in path)}\n"
    yield f"{key.description}\n"
    if len(key.shape.blocks) == 1:
        yield from _body(key.shape.blocks[0], path, level)
        return
    yield f"One of {_names(key.shape)}{_default_name(key)}.\n"
    for block in key.shape.blocks:
        yield f"{'#' * (level + 1)} {key.name}: `{block.label}`\n"
        yield f"{block.description}\n"
        yield from _body(block, path, level + 1)


def _body(block: Block, path: Way, level: int) -> Iterator[str]:
    yield f"```yaml\n{yaml_text(_nested(path, example(block))).rstrip()}\n```\n"
    if set(block.keys) != {"name"} or not block.names:
        yield _table(block, tuple(name for name, _ in path))
    beside = {key.name: key.examples[0] for key in block.keys.values() if key.examples}
    needed = [key for key in block.keys.values() if key.required or key.name == "name"] if block.names else []
    chosen = {key.name: _example_value(key, block) for key in needed}  # a key of one choice stands beside its name
    for key in block.keys.values():
        if key.shape.blocks:
            own = {name: value for name, value in {**chosen, **beside}.items() if name != key.name}
            yield from _section(key, (*path, (key.name, own)), level + 1)


def _table(block: Block, path: tuple[str, ...]) -> str:
    lines = ["| key | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    for key in block.keys.values():
        if key.name == "name" and block.names:
            continue  # it stands in the heading
        lines.append(f"| `{key.name}` | {_allowed(key, path)} | {_default(key)} | {_cell(key.description)} |")
    return "\n".join(lines) + "\n"


def _allowed(key: Key, path: tuple[str, ...]) -> str:
    if not key.shape.blocks:
        pattern = key.shape.pattern
        return _cell(key.shape.text if pattern is None else key.shape.text.replace(pattern, f"`{pattern}`"))
    anchor = "".join((*path, key.name)).replace(".", "").lower()
    return f"[a block](#{anchor})" if len(key.shape.blocks) == 1 else f"[a choice](#{anchor}): {_names(key.shape)}"


def _names(shape: Shape) -> str:
    return ", ".join(f"`{name}`" for name in shape.block_names)


def _default_name(key: Key) -> str:
    name = getattr(key.default, "name", None)
    return f"; default `{name}`" if name else ""


def _default(key: Key) -> str:
    if key.required:
        return "**required**"
    if isinstance(key.default, BaseModel):
        name = getattr(key.default, "name", None)
        return f"`{name}`" if name else "its defaults"
    return _cell(f"`{_flow(_plain(key.default))}`")


def _cell(text: str) -> str:
    """Return text for one cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    if isinstance(value, list | dict):
        return yaml_text([value]).removeprefix("- ").strip()
    return yaml_text(value).removesuffix("...\n").strip()


def _plain(value: Any) -> Any:
    """Return a default as bare values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _nested(path: Way, value: Any) -> Any:
    for name, beside in reversed(path):
        value = {**beside, name: value}
    return value


def example(block: Block) -> dict[str, Any]:
    """Return a block that loads: its name, its required keys with example values, and a few of the defaults.

    Raises:
        KeyError: a required key has no example.
    """
    values: dict[str, Any] = {}
    for key in block.keys.values():
        if key.required or key.name == "name" or key.examples:
            values[key.name] = _example_value(key, block)
    for key in block.keys.values():
        if len(values) < 3 and key.name not in values and key.default is not None:
            values[key.name] = _plain(key.default)
    return {name: values[name] for name in block.keys if name in values}


def _example_value(key: Key, block: Block) -> Any:
    if key.examples:
        return key.examples[0]
    if not key.required:
        return _plain(key.default)
    for place in (f"{block.label}.{key.name}", key.name):
        if place in _EXAMPLES:
            return _EXAMPLES[place]
    if key.shape.blocks:
        return example(key.shape.blocks[0])
    raise KeyError(f"{block.model.__name__}.{key.name} is required: give it an example in scenarios/reference.py")


_EXAMPLES: dict[str, Any] = {
    "DataSettings.source": "digits",
    "DataSettings.partition": {"name": "dirichlet", "clients": 20, "alpha": 0.3},
    "clients": 20,
    "alpha": 0.3,
    "classes_per_client": 2,
    "sizes": [100, 80, 20],
    "folder.path": "data/cells",
    "csv.path": "data/cells.csv",
    "text-csv.path": "data/reviews.csv",
    "arrays.path": "data/cells.npz",
    "features.path": "data/patients.csv",
    "audio.path": "data/words",
    "torchvision:<Dataset>.name": "torchvision:FashionMNIST",
    "flower:<Class>.name": "flower:FedAdam",
    "YourClass.file": "my_strategy.py",
    "YourClass.name": "Shrinking",
    "one.client": "clinic-1",
}
"""Values of required keys for the examples; `Field(examples=[...])` of a setting has precedence."""


if __name__ == "__main__":
    sys.exit(main(PATH, reference(), "python -m scenarios.reference"))
