"""The JSON Schema and the reference are generated; these tests keep them true."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from small_model import Trip

from fedgraft.errors import ScenarioError
from scenarios import json_schema, reference
from scenarios.generated import main
from scenarios.loader import SHIPPED, load_scenario, shipped
from scenarios.writer import to_yaml


@functools.cache
def validator(model: Any) -> Any:
    schema = json_schema.json_schema(model) if model else json.loads(json_schema.PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def complaints(value: Any, model: Any = None) -> list[str]:
    return [error.message for error in validator(model).iter_errors(value)]


@pytest.mark.parametrize("module", [json_schema, reference])
def test_the_generated_file_is_true(module: Any) -> None:
    text = json_schema.text() if module is json_schema else reference.reference()
    assert module.PATH.read_text(encoding="utf-8") == text, f"run `python -m {module.__name__}`"


@pytest.mark.parametrize("name", [name for name, _ in shipped()])
def test_shipped_and_resolved_scenarios_fit_the_schema(name: str) -> None:
    assert complaints(yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))) == []
    assert complaints(yaml.safe_load(to_yaml(load_scenario(name)))) == []


@pytest.mark.parametrize(
    "trip",
    [
        {"name": "a"},
        {"name": "a", "gait": "slow"},
        {"name": "a", "gait": {"name": "fast", "power": 3, "boost": "auto"}},
        {"name": "a", "gait": {"speed": 0.5}},
        {"name": "a", "lead": "guide:anna"},
        {"name": "a", "places": {"labels": {"x": 1}, "corner": [1, 2]}},
    ],
)
def test_the_schema_takes_what_the_loader_takes(tmp_path: Path, trip: dict[str, Any]) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(trip))
    load_scenario(tmp_path / "a.yaml", model=Trip)
    assert complaints(trip, Trip) == []


@pytest.mark.parametrize(
    "trip",
    [
        {},
        {"name": 3},
        {"name": "a", "dais": 3},
        {"name": "a", "days": 0},
        {"name": "a", "gait": "fats"},
        {"name": "a", "gait": {"name": "slow", "power": 3}},
        {"name": "a", "gait": {"name": "fast"}},
        {"name": "a", "gait": {"sped": 1}},
        {"name": "a", "lead": "guide:9"},
        {"name": "a", "places": {"corner": [1]}},
    ],
)
def test_the_schema_flags_what_the_loader_refuses(tmp_path: Path, trip: dict[str, Any]) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(trip))
    with pytest.raises(ScenarioError):
        load_scenario(tmp_path / "a.yaml", model=Trip)
    assert complaints(trip, Trip)


def test_an_extending_file_may_leave_required_keys_out() -> None:
    assert complaints({"extends": "base.yaml", "gait": {"power": 3}}, Trip) == []
    assert complaints({"extends": "base.yaml", "gait": {"pwer": 3}}, Trip)
    assert complaints({"extends": "quickstart", "data": {"partition": {"alpha": 0.1}}}) == []


def test_every_example_of_the_reference_loads(tmp_path: Path) -> None:
    text = reference.PATH.read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) > 20
    for example in examples:
        base = "strategies" if "  tune:" in example else "quickstart"  # what is tuned has to be compared
        (tmp_path / "a.yaml").write_text(f"extends: {base}\n{example}")
        load_scenario(tmp_path / "a.yaml")
        assert complaints(yaml.safe_load(f"extends: {base}\n{example}")) == []


def test_every_link_of_the_reference_leads_to_a_heading() -> None:
    text = reference.PATH.read_text(encoding="utf-8")
    headings = [re.sub(r"[^\w\- ]", "", line.lstrip("# ")).lower() for line in text.splitlines() if line[:1] == "#"]
    anchors = re.findall(r"\]\(#([^)]*)\)", text)
    assert anchors
    assert set(anchors) <= {heading.replace(" ", "-") for heading in headings}


def test_the_reference_tells_a_newcomer_what_each_key_is() -> None:
    text = reference.reference(Trip)
    assert "| `speed` | a number above 0 and at most 2 | `1.0` | Metres a second. |" in text
    assert "| `power` | a whole number | **required** | Watts. |" in text
    assert "gait: {name: fast, power: 250, boost: auto}" in text
    assert "### gait: `fast`" in text
    assert "| `gait` | [a choice](#gait): `slow`, `fast` | `slow` | How. |" in text


def test_writing_and_checking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made.txt"
    assert main(path, "one", "python -m make", ["--check"]) == 1
    assert main(path, "one", "python -m make", []) == 0
    assert main(path, "one", "python -m make", ["--check"]) == 0
    assert main(path, "two", "python -m make", ["--check"]) == 1
    assert "made.txt is out of date; run `python -m make`" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == "one"
