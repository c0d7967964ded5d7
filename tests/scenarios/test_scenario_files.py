"""Finding, reading and resolving scenario files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small_model import Fast, Guided, Slow, Trip

from fedgraft.errors import ScenarioError
from scenarios.loader import SHIPPED, load_scenario, shipped
from scenarios.schema import Scenario
from scenarios.writer import to_yaml


def write(folder: Path, text: str, name: str = "trip.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str) -> Trip:
    return load_scenario(write(folder, text), overrides, model=Trip)


def test_short_forms_defaults_and_types(tmp_path: Path) -> None:
    trip = load(tmp_path, "name: a\ngait: slow\nlead: guide:anna\nplaces: {corner: [1, 2.5]}\nsure: true\n")
    assert trip.gait == Slow()
    assert trip.lead == Guided(name="guide:anna")
    assert trip.places.corner == (1.0, 2.5)
    assert trip.sure is True
    assert trip.days == 1


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1E+0", 1.0), (".5", 0.5), ("2", 2.0), ("1.", 1.0), ("+1.5e0", 1.5)]
)
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: float) -> None:
    assert load(tmp_path, f"name: a\ngait: {{name: slow, speed: {text}}}").gait.speed == value  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["no", "on", "12:30", "2024-01-01", "1_000", "=", "'1e-3'", "'~'", "'true'"])
def test_what_yaml_1_1_reads_as_something_else_is_text(tmp_path: Path, text: str) -> None:
    trip = load(tmp_path, f"name: {text}")
    assert trip.name == text.strip("'")
    again = write(tmp_path, to_yaml(trip), "again.yaml")
    assert load_scenario(again, model=Trip) == trip


def test_a_byte_order_mark_and_other_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\r\ndays: 0\r\n")
    with pytest.raises(ScenarioError, match="line 2: days: came 0"):
        load_scenario(path, model=Trip)


def test_extends_merges_blocks_and_replaces_the_rest(tmp_path: Path) -> None:
    write(
        tmp_path,
        "name: base\ndays: 5\ngait: {name: slow, speed: 0.5, rests: [1, 2, 3]}\nplaces: {labels: {a: 1}}\n",
        "base.yaml",
    )
    trip = load(tmp_path, "extends: base.yaml\nname: a\ngait: {rests: [9]}\nplaces: {labels: {b: 2}}\n")
    assert (trip.name, trip.days) == ("a", 5)
    assert trip.gait == Slow(speed=0.5, rests=(9,))
    assert trip.places.labels == {"a": 1, "b": 2}


def test_another_name_replaces_the_whole_block(tmp_path: Path) -> None:
    write(tmp_path, "name: base\ngait: {name: slow, speed: 0.5}\n", "base.yaml")
    assert load(tmp_path, "extends: base.yaml\ngait: {name: fast, power: 3}").gait == Fast(power=3)
    assert load(tmp_path, "extends: base.yaml\ngait: slow").gait == Slow(speed=0.5)
    write(tmp_path, "name: base\ngait: {speed: 0.5}\n", "base.yaml")  # the default's name is meant
    assert load(tmp_path, "extends: base.yaml\ngait: {name: fast, power: 3}").gait == Fast(power=3)
    assert load(tmp_path, "extends: base.yaml\ngait: {rests: [4]}").gait == Slow(speed=0.5, rests=(4,))


def test_extends_goes_through_folders_and_shipped_names(tmp_path: Path) -> None:
    write(tmp_path, "name: root\ndays: 7\n", "root.yaml")
    write(tmp_path, "extends: ../root.yaml\nnights: 2\n", "sub/middle.yaml")
    trip = load(tmp_path, "extends: sub/middle.yaml\nname: leaf")
    assert (trip.name, trip.days, trip.nights) == ("leaf", 7, 2)
    path = write(tmp_path, "extends: quickstart\nname: mine\nserver: {rounds: 2}\n", "mine.yaml")
    mine, quick = load_scenario(path), load_scenario("quickstart")
    assert mine.server.rounds == 2
    assert mine == quick.model_copy(update={"name": "mine", "server": mine.server})


def test_relative_paths_count_from_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "name: base\nplaces: {map: maps/a.png, guide: none}\n", "sub/base.yaml")
    trip = load(tmp_path, "extends: sub/base.yaml")
    assert trip.places.map == str(tmp_path / "sub/maps/a.png")
    assert trip.places.guide == "none"
    assert load(tmp_path, "extends: sub/base.yaml\nplaces: {map: b.png}").places.map == str(tmp_path / "b.png")
    assert load(tmp_path, "name: a\nplaces: {map: ~/c.png}").places.map == "/home/ann/c.png"
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert load(tmp_path, "name: a", "places.guide=d.txt").places.guide == str(other / "d.txt")


def test_paths_of_the_real_scenario_become_absolute(tmp_path: Path) -> None:
    text = "name: a\nbackbone: {weights: w.safetensors}\ndata: {source: {name: csv, path: d.csv}, partition: natural}\n"
    scenario = load_scenario(write(tmp_path, text))
    assert scenario.backbone.weights == str(tmp_path / "w.safetensors")
    assert scenario.data.source.path == str(tmp_path / "d.csv")  # type: ignore[union-attr]
    assert load_scenario(write(tmp_path, text), ["backbone.weights=random"]).backbone.weights == "random"


@pytest.mark.parametrize("name", [name for name, _ in shipped()])
def test_shipped_scenarios_load_and_their_resolved_form_is_the_same(name: str, tmp_path: Path) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    assert load_scenario(write(tmp_path, to_yaml(scenario))) == scenario
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
    first = (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"


def test_shipped_scenarios_are_described() -> None:
    rows = dict(shipped())
    assert "20 uneven clients" in rows["quickstart"]
    assert all(rows.values())


def test_quickstart_is_the_main_job() -> None:
    scenario = load_scenario("quickstart")
    assert scenario.backbone.name == "bundled:efficientnet_lite0"
    assert scenario.data.source.name == "digits"
    assert scenario.data.partition.model_dump() == {"name": "dirichlet", "clients": 20, "alpha": 0.3}
    assert (scenario.head.name, scenario.strategy.name, scenario.server.rounds) == ("linear", "fedavg", 20)


def test_five_lines_are_a_scenario(tmp_path: Path) -> None:
    text = "name: five\ndata:\n  source: digits\n  partition: {name: iid, clients: 5}\nserver: {rounds: 3}\n"
    scenario = load_scenario(write(tmp_path, text))
    assert scenario.backbone.weights == "pretrained"
    assert scenario.privacy is None


def test_loading_imports_no_heavy_library() -> None:
    heavy = "torch flwr timm torchvision sklearn pandas matplotlib PIL ray scipy flwr_datasets datasets rich typer"
    code = (
        "import sys, scenarios.loader; scenarios.loader.load_scenario('quickstart');"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
