"""The JSON Schema of a scenario file, for editors: `python -m scenarios.json_schema` writes it.

It is pydantic's own schema of the model, with what a file may hold beyond the model: short forms, `extends`, and
blocks that leave out what the extended file says. It flags unknown keys and wrong values while one types; the
loader remains the judge.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from fedgraft.settings import Settings
from fedgraft.settings_files.shape import Block, Shape
from scenarios.generated import main
from scenarios.loader import SHIPPED
from scenarios.schema import Scenario

PATH = SHIPPED / "schema.json"
EXTENDS = "Another scenario that this one changes: a path relative to this file, or the name of a shipped one."


def json_schema(model: type[Settings] = Scenario) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a scenario file."""
    schema = model.model_json_schema()
    definitions: dict[str, Any] = schema.pop("$defs", {})
    for definition in [*definitions.values(), schema]:
        definition.pop("title", None)
        definition.pop("required", None)  # an extended file may hold the key; see `_needs`
        for name, entry in definition["properties"].items():
            definition["properties"][name] = _property(entry, definitions)
    schema["properties"] = {"extends": {"type": "string", "description": EXTENDS}, **schema["properties"]}
    needs = _needs(Block(model))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "FedGraft scenario",
        **schema,
        **({"if": {"not": {"required": ["extends"]}}, "then": needs} if needs else {}),
        "$defs": definitions,
    }


def _property(entry: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Add a block's short form and, for a choice of blocks, the form without a name."""
    entry.pop("title", None)
    entry.pop("discriminator", None)  # a keyword of OpenAPI
    if "anyOf" in entry and any(option.get("type") == "null" for option in entry["anyOf"]):  # a block, or null
        return {**entry, "anyOf": [_property(option, definitions) for option in entry["anyOf"]]}
    options = entry.get("oneOf") or ([{"$ref": entry["$ref"]}] if "$ref" in entry else [])
    blocks = [definitions[option["$ref"].rpartition("/")[2]] for option in options if "$ref" in option]
    if not blocks or not all("name" in block["properties"] for block in blocks):
        return entry
    rest = {key: value for key, value in entry.items() if key not in ("oneOf", "$ref")}
    short = [
        {**_name_rule(block["properties"]["name"]), "type": "string", "description": block["description"]}
        for block in blocks
    ]
    if len(options) == 1:
        return {"anyOf": [*short, *options], **rest}
    long = [{"allOf": [option], "required": ["name"]} for option in options]
    keys = {key: value for block in reversed(blocks) for key, value in block["properties"].items()}
    nameless = {
        "type": "object",
        "description": "Keys of the block that the default, or the extended file, names.",
        "not": {"required": ["name"]},
        "properties": {key: {"description": value.get("description", "")} for key, value in keys.items()},
        "additionalProperties": False,
    }
    return {"anyOf": [*short, *long, nameless], **rest}


def _name_rule(name: dict[str, Any]) -> dict[str, Any]:
    """Return what the schema of a key `name` says of its values."""
    return {key: name[key] for key in ("const", "enum", "pattern") if key in name}


def _needs(block: Block) -> dict[str, Any]:
    """Return a schema of nothing but the required keys of a block and of the blocks below it."""
    required = [key.name for key in block.keys.values() if key.required and not (key.name == "name" and block.tag)]
    below = {key.name: needs for key in block.keys.values() if (needs := _needs_of(key.shape))}
    return {**({"required": required} if required else {}), **({"properties": below} if below else {})}


def _needs_of(shape: Shape) -> dict[str, Any]:
    if len(shape.blocks) == 1:
        return _needs(shape.blocks[0])
    rules = []
    for block in shape.blocks:
        if block.names and (needs := _needs(block)):
            chosen = {"required": ["name"], "properties": {"name": {"enum": list(block.names)}}}
            rules.append({"if": chosen, "then": needs})
    return {"allOf": rules} if rules else {}


def text() -> str:
    """Return the text of scenarios/schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.exit(main(PATH, text(), "python -m scenarios.json_schema"))
