"""Laws of merging: extending nothing changes nothing, an override equals an edit, later layers win."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_model import Trip

from fedgraft.errors import ScenarioError
from fedgraft.settings_files.located import Place, read_yaml
from fedgraft.settings_files.shape import Block, Shape
from scenarios.loader import load_scenario
from scenarios.merging import merge
from scenarios.writer import to_yaml, yaml_text

TOP = Shape("", blocks=(Block(Trip),))
PLACE = Place("a test", None, Path("/"))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
keys = st.sampled_from(["a", "b", "c", "name"])
trees = st.recursive(
    st.dictionaries(keys, scalars, max_size=3),
    lambda below: st.dictionaries(keys, below | scalars | st.lists(scalars, max_size=3), max_size=3),
    max_leaves=12,
)


def located(value: Any) -> Any:
    tree, faults = read_yaml(yaml_text(value), PLACE)
    assert tree is not None
    assert not faults
    return tree


@given(trees)
def test_what_is_written_is_what_is_read(value: dict[str, Any]) -> None:
    """The oracle is JSON: both ways through YAML give the values that went in, types included."""
    assert json.dumps(located(value).plain()) == json.dumps(value)


@given(trees, trees, trees)
def test_merging_has_a_neutral_element_repeats_and_associates(a: Any, b: Any, c: Any) -> None:
    def plain(under: Any, over: Any) -> Any:
        return merge(located(under), located(over)).plain()

    assert plain({}, a) == a
    assert plain(a, {}) == a
    assert plain(a, a) == a
    assert plain(plain(a, b), b) == plain(a, b)
    if "name" not in json.dumps([a, b, c]):  # without choices, layers may be merged in any grouping
        assert plain(plain(a, b), c) == plain(a, plain(b, c))


trips = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "b"])},
    optional={
        "days": st.integers(1, 9),
        "sure": st.booleans(),
        "gait": st.one_of(
            st.just("slow"),
            st.fixed_dictionaries(
                {}, optional={"speed": st.floats(0.1, 2), "rests": st.lists(st.integers(1, 5), max_size=3)}
            ),
            st.fixed_dictionaries({"name": st.just("fast"), "power": st.integers(1, 9)}),
        ),
        "places": st.fixed_dictionaries({}, optional={"labels": st.dictionaries(keys, st.integers(0, 3))}),
    },
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laws")


def load(folder: Path, value: dict[str, Any], *overrides: str, name: str = "trip.yaml") -> Trip:
    (folder / name).write_text(yaml.safe_dump(value))
    return load_scenario(folder / name, overrides, model=Trip)


@given(trip=trips)
def test_extending_without_a_change_is_the_identity(folder: Path, trip: dict[str, Any]) -> None:
    plain = load(folder, trip, name="base.yaml")
    assert load(folder, {"extends": "base.yaml"}) == plain
    (folder / "resolved.yaml").write_text(to_yaml(plain))
    assert load_scenario(folder / "resolved.yaml", model=Trip) == plain


EDITS: list[tuple[str, list[str], Any]] = [
    ("days", ["days"], 7),
    ("sure", ["sure"], True),
    ("name", ["name"], "other"),
    ("gait", ["gait"], {"name": "fast", "power": 2}),
    ("places.corner", ["places", "corner"], [1.5, 2]),
    ("places.labels.c", ["places", "labels", "c"], 3),
]


@given(trip=trips, edit=st.sampled_from(EDITS))
def test_an_override_equals_an_edit(folder: Path, trip: dict[str, Any], edit: tuple[str, list[str], Any]) -> None:
    key, path, value = edit
    overridden = load(folder, trip, f"{key}={json.dumps(value)}")
    here = trip
    for part in path[:-1]:
        here = here.setdefault(part, {})
    here[path[-1]] = value
    assert load(folder, trip) == overridden


@pytest.mark.parametrize("gait", ["slow", {"name": "slow"}, {"speed": 2.0}, {"name": "slow", "speed": 2.0}, None])
def test_an_override_reaches_into_every_form_of_a_block(folder: Path, gait: Any) -> None:
    trip = {"name": "a"} if gait is None else {"name": "a", "gait": gait}
    assert load(folder, trip, "gait.speed=0.5").gait.model_dump() == {"name": "slow", "speed": 0.5, "rests": ()}


def test_overrides_apply_in_order_and_reach_items(folder: Path) -> None:
    trip = {"name": "a", "gait": {"rests": [1, 2, 3]}}
    loaded = load(folder, trip, "gait.rests[0]=9", "gait.rests.2=8", "days=2", "days=3", "lead=guide:bo")
    assert loaded.gait.model_dump()["rests"] == (9, 2, 8)
    assert loaded.days == 3
    assert loaded.lead.name == "guide:bo"
    with pytest.raises(ScenarioError, match=r"gait\.power: missing"):
        load(folder, trip, "gait.name=fast")
    assert load(folder, trip, "gait.name=fast", "gait.power=4").gait.model_dump()["power"] == 4


def test_an_override_extends_what_a_file_extends(folder: Path) -> None:
    load(folder, {"name": "base", "gait": {"speed": 0.25}}, name="base.yaml")
    trip = load(folder, {"extends": "base.yaml", "days": 2}, "gait.rests=[5]")
    assert trip.gait.model_dump() == {"name": "slow", "speed": 0.25, "rests": (5,)}
