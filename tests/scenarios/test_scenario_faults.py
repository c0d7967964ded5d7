"""Every bad input: the texts name the key, the line, what came, what is allowed and a near miss."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_model import Trip

from fedgraft.errors import ScenarioError
from scenarios.loader import load_scenario


def faults(folder: Path, text: str | bytes, *overrides: str, name: str = "trip.yaml") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, overrides, model=Trip)
    first, *rest = str(caught.value).splitlines()
    count = len(caught.value.faults)
    assert first == f"{path}: {count} fault{'s' if count > 1 else ''}"
    return "\n".join(line.removeprefix("  ") for line in rest)


ONE_FAULT = {
    "name: a\ndais: 3": (
        "line 2: dais: unknown key; known here: name, days, nights, sure, gait, lead, places; did you mean 'days'?"
    ),
    "name: a\npower: 3": "known here: name, days, nights, sure, gait, lead, places; there is gait.power",
    "name: a\ngait:\n  name: slow\n  power: 3": (
        "line 4: gait.power: unknown key; slow takes name, speed, rests; 'power' belongs to fast"
    ),
    "name: a\ngait: {sped: 1}": "line 2: gait.sped: unknown key; slow takes name, speed, rests; did you mean 'speed'?",
    "days: 3": "line 1: name: missing; expected text",
    "name: a\n\ngait:\n  name: fast": "line 3: gait.power: missing; expected a whole number",
    "name: a\ngait: fast": "line 2: gait.power: missing; expected a whole number",
    "name: a\ngait: fats": "line 2: gait: came the name 'fats'; expected one of slow, fast; did you mean 'fast'?",
    "name: a\ngait: Fast": "line 2: gait: came the name 'Fast'; expected one of slow, fast; did you mean 'fast'?",
    "name: a\ngait: {name: 3}": "line 2: gait: came the name 3; expected one of slow, fast",
    "name: a\ngait: 3": "line 2: gait: came 3; expected a block of keys whose name is one of slow, fast",
    "name: a\ngait: []": "line 2: gait: came [] (a list); expected a block of keys whose name is one of slow, fast",
    "name: a\nlead: guid:anna": (
        "line 2: lead: came the name 'guid:anna'; expected one of slow, guide:<name>; did you mean 'guide:anna'?"
    ),
    "name: a\nlead: guide:9": "line 2: lead.name: came 'guide:9' (text); expected text that matches ^guide:[a-z]+$",
    "name: a\ndays: 0": "line 2: days: came 0; expected a whole number of at least 1",
    "name: a\ndays: 1.0": "line 2: days: came 1.0; expected a whole number of at least 1",
    "name: a\ndays: true": "line 2: days: came true; expected a whole number of at least 1",
    "name: a\ndays:": "line 2: days: came nothing (null); expected a whole number of at least 1",
    "name: a\ndays: '3'": (
        "line 2: days: came '3' (text); expected a whole number of at least 1; write the number without quotes"
    ),
    "name: a\nsure: yes": "line 2: sure: came 'yes' (text); expected true or false",
    "name: 5": "line 1: name: came 5; expected text",
    "name: a\ngait:\n  speed: 3": "line 3: gait.speed: came 3; expected a number above 0 and at most 2",
    "name: a\ngait:\n  speed: .nan": "line 3: gait.speed: came .nan; expected a number above 0 and at most 2",
    "name: a\ngait:\n  speed: 1e999": "line 3: gait.speed: came .inf; expected a number above 0 and at most 2",
    "name: a\ngait:\n  rests:\n  - 1\n  - 0": "line 5: gait.rests[1]: came 0; expected a whole number of at least 1",
    "name: a\ngait: {rests: 4}": "gait.rests: came 4; expected a list, each a whole number of at least 1",
    "name: a\ngait: {name: fast, power: 1, boost: atuo}": (
        "line 2: gait.boost: came 'atuo' (text); expected a number or auto; did you mean 'auto'?"
    ),
    "name: a\nplaces: {corner: [1]}": (
        "line 2: places.corner: came [1] (a list); expected null or a list of 2 items, each a number"
    ),
    "name: a\nplaces: {corner: [1, 2, 3]}": "places.corner: came [1, 2, 3] (a list); expected null or a list of 2",
    "name: a\nplaces: {labels: {x: y}}": "line 2: places.labels.x: came 'y' (text); expected a whole number",
    "name: a\nplaces: 4": "line 2: places: came 4; expected a block of keys (map, guide, corner, labels)",
    "name: a\ndays: 2\nnights: 3": "line 3: nights: came 3; expected at most days (2)",
    "name: a\ndays: 13": "line 1: thirteen days bring bad luck",
    "name: a\ndays: 2\ndays: 3": "line 3: days: given twice, first in line 2; keep one",
    "name: a\n<<: {days: 3}": "line 2: <<: merge keys aren't read; use `extends: other.yaml`",
    "name: a\n? [1, 2]\n: 3": "line 2: a key must be plain text, not a list or a block of keys",
    "name: a\ndays: !!python/object/apply:os.system [ls]": (
        "line 2: days: the tag !!python/object/apply:os.system is refused; write plain values, without a tag"
    ),
    "name: !secret a": "line 1: name: the tag !secret is refused; write plain values, without a tag",
    "name: a\ndays: !!int three": "line 2: days: can't be read as int: 'three'",
    'name: "\\ud800"': "line 1: name: can't be read as str",
    f"name: a\ndays: {'9' * 5000}": "line 2: days: can't be read as int: '999",
    "name: a\nplaces: &p {labels: *p}": "line 2: places.labels: an alias that contains itself; write the value out",
    "name: a\nextends: 3": "line 2: extends: expected the path or name of one scenario",
    "name: a\ngait: {name: slow, speed: 1": (
        "line 2: not valid YAML at column 28: while parsing a flow mapping: expected ',' or '}', but got"
    ),
    "name: a\n\tdays: 3": "line 2: not valid YAML at column 1: while scanning for the next token",
    "name: a: b": "line 1: not valid YAML at column 8: mapping values are not allowed here; there stands: name: a: b",
    "name: a\n---\nname: b": "line 2: not valid YAML at column 1: expected a single document in the stream",
    "name: a\nplaces: *nowhere": "line 2: not valid YAML at column 9: found undefined alias 'nowhere'",
    "name: a\ndays: \x07": "line 2: not valid YAML: special characters are not allowed",
    "": "the file is empty; a scenario has at least the keys name and data",
    "# only this\n": "the file is empty; a scenario has at least the keys name and data",
    "--- null\n": "the file is empty; a scenario has at least the keys name and data",
    "- a\n- b": "line 1: holds no keys; a scenario is a mapping such as `name: my-run`",
    "just words": "line 1: holds no keys",
    b"\x89PNG\r\n\x1a\n\0\0": "not UTF-8 text (byte 0); a scenario is a YAML file, saved as UTF-8",
    "name: a\0b": "a binary file; a scenario is a YAML file, saved as UTF-8",
    "name: a".encode("utf-16"): "not UTF-8 text (byte 0)",
    "name: bj\xf6rn".encode("latin-1"): "not UTF-8 text (byte 8)",
    f"name: a\nplaces: {'[' * 60}{']' * 60}": "line 2: places: the values are nested too deep to be read",
    "[" * 1000: "the values are nested too deep to be read",
}


@pytest.mark.parametrize(("text", "expected"), ONE_FAULT.items(), ids=[str(key)[:40] for key in ONE_FAULT])
def test_one_fault(tmp_path: Path, text: str | bytes, expected: str) -> None:
    found = faults(tmp_path, text)
    assert expected in found
    assert "\n" not in found


def test_a_cross_fault_of_the_whole_names_no_key(tmp_path: Path) -> None:
    assert faults(tmp_path, "name: a\ndays: 13") == "line 1: thirteen days bring bad luck"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("name: a\n\tdays: 3", "indent with spaces, not tabs"),
        ("places:\n  map: x\n guide: y", "is the indentation right?"),
        ("places:\n  map x\n  guide: y", "is a colon missing in the line before, or does the text need quotes?"),
        ("name: 'a\ndays: 3", "is a quote left open?"),
        ("gait: {name: slow speed: 3}", "is a comma or a closing } missing?"),
        ("name: @a", "put text that begins with this character in quotes"),
    ],
)
def test_common_slips_of_the_pen_get_a_hint(tmp_path: Path, text: str, hint: str) -> None:
    assert faults(tmp_path, text).endswith(f"; {hint}")


def test_all_faults_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = "dais: 3\nsure: maybe\nsure: true\ngait:\n  name: fast\n  boost: fast\nnights: x\n"
    assert faults(tmp_path, text) == "\n".join(
        [
            "line 1: name: missing; expected text",
            "line 1: dais: unknown key; known here: name, days, nights, sure, gait, lead, places; did you mean 'days'?",
            "line 2: sure: came 'maybe' (text); expected true or false",
            "line 3: sure: given twice, first in line 2; keep one",
            "line 4: gait.power: missing; expected a whole number",
            "line 6: gait.boost: came 'fast' (text); expected a number or auto",
            "line 7: nights: came 'x' (text); expected a whole number",
        ]
    )


def test_a_refused_value_is_reported_once(tmp_path: Path) -> None:
    assert faults(tmp_path, "name: a\ndays: !x 3").count("days") == 1


def test_faults_of_an_extended_file_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("name: b\n\ndays: 0\n")
    assert faults(tmp_path, "extends: base.yaml\nsure: 1") == (
        "line 2: sure: came 1; expected true or false\n"
        "base.yaml, line 3: days: came 0; expected a whole number of at least 1"
    )
    (tmp_path / "base.yaml").write_text("name: b\ndays: [\n")
    assert faults(tmp_path, "extends: base.yaml").startswith("base.yaml, line 3: not valid YAML at column 1: ")
    (tmp_path / "base.yaml").write_text("")
    assert faults(tmp_path, "extends: base.yaml").startswith("base.yaml: the file is empty")


def test_circles_and_missing_bases(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("extends: trip.yaml\n")
    assert "extends: a circle: trip.yaml -> b.yaml -> trip.yaml" in faults(tmp_path, "extends: b.yaml")
    assert "line 1: extends: a circle: trip.yaml -> trip.yaml" in faults(tmp_path, "extends: trip.yaml")
    found = faults(tmp_path, "name: a\nextends: bb.yaml")
    assert found.startswith("line 2: extends: came 'bb.yaml': no such file; shipped scenarios: ")
    assert found.endswith("did you mean 'b.yaml'?")


def test_overrides_are_named_with_the_same_care(tmp_path: Path) -> None:
    text = "name: a\ngait: {rests: [1, 2]}\n"
    expected = {
        "dais=3": "--set dais=3: dais: unknown key; known here: name, days, nights, sure, gait, lead, places; did you",
        "days=x": "--set days=x: days: came 'x' (text); expected a whole number of at least 1",
        "gait.power=3": "gait.power: unknown key; slow takes name, speed, rests; 'power' belongs to fast",
        "gait.rests[2]=3": "gait.rests[2]: came the index 2; the list has 2 items, 0 to 1",
        "gait.rests.one=3": "gait.rests.one: came the index one; the list has 2 items, 0 to 1",
        "gait.rests[1]=0": "--set gait.rests[1]=0: gait.rests[1]: came 0; expected a whole number of at least 1",
        "days": "came 'days'; write key=value with the full key, such as train.batch_size=20",
        "=3": "came '=3'; write key=value with the full key",
        "gait..speed=3": "came 'gait..speed=3'; write key=value with the full key",
        "days=[1": "days: not valid YAML at column 3: while parsing a flow sequence",
        "days=!x 3": "days: the tag !x is refused; write plain values, without a tag",
        "days={a: 1, a: 2}": "days.a: given twice",
    }
    for override, message in expected.items():
        found = faults(tmp_path, text, override)
        assert message in found, override
        assert found.startswith("--set "), override


def test_no_such_file_lists_the_shipped_ones_and_near_misses(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario("quikstart")
    assert str(caught.value).startswith("quikstart: 1 fault\n  no such file; shipped scenarios: ")
    assert str(caught.value).endswith("; did you mean 'quickstart'?")
    (tmp_path / "mine.yaml").write_text("name: a")
    with pytest.raises(ScenarioError, match=r"did you mean 'mine.yaml'\?"):
        load_scenario(tmp_path / "mnie.yaml")
    with pytest.raises(ScenarioError, match=r"did you mean 'quickstart'\?"):
        load_scenario("somewhere/quickstart.yaml")
    for odd in ("", "a\0b", "x" * 5000, "~nobody-at-all/x.yaml"):
        with pytest.raises(ScenarioError, match="no such file; shipped scenarios: "):
            load_scenario(odd)


def test_a_folder_or_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one.yaml").write_text("name: a")
    with pytest.raises(ScenarioError, match=r"a folder, not a file; name one scenario in it: one\.yaml"):
        load_scenario(tmp_path)

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", path, mode)

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so a mode of 0 would test nothing
    with pytest.raises(ScenarioError, match="can't be read: Permission denied"):
        load_scenario(tmp_path / "one.yaml")


def test_aliases_of_aliases_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgraft.settings_files.located.LARGEST_TREE", 1000)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "the file holds more than 1,000 values (aliases counted)" in faults(tmp_path, "\n".join(lines))


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in faults(tmp_path, 'name: a\ndays: "\\e[31mred"')
    assert "\x1b" not in faults(tmp_path, 'name: a\n"\\e[31mred": 1')


REAL = "name: a\ndata:\n  source: digits\n  partition: {name: iid, clients: 5}\n"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("strategy=fedagv", "strategy: came the name 'fedagv'; expected one of fedavg, "),
        ("strategy=fedagv", "did you mean 'fedavg'?"),
        ("backbone=bundled:efficientnet_lite", "backbone.name: no bundled backbone 'bundled:efficientnet_lite'"),
        ("data.source=digit", "data.source: came the name 'digit'; expected one of synthetic, digits, folder, csv"),
        (
            "data.partition.alpha=1",
            "data.partition.alpha: unknown key; iid takes name, clients; 'alpha' belongs to dir",
        ),
        ("data.partition.clients=0", "data.partition.clients: came 0; expected a whole number of at least 1"),
        ("train.learning_rate=0.1", "train.learning_rate: unknown key; known here: local_epochs, local_steps"),
        ("train.learning_rate=0.1", "there is train.optimizer.learning_rate"),
        ("train.optimizer.learning_rate=-1", "train.optimizer.learning_rate: came -1; expected a number above 0"),
        ("backbone.weights=pretraned", "backbone.weights: came 'pretraned'; expected pretrained, random, or the path"),
        ("privacy={}", "privacy: came {} (a block of keys); expected null"),
        ("seed=9223372036854775808", "seed: came 9223372036854775808; expected a whole number of at least 0 and below"),
        (
            "data.partition={name: sizes, sizes: []}",
            "data.partition.sizes: came [] (a list); expected a list (at least",
        ),
    ],
)
def test_faults_of_the_real_scenario(tmp_path: Path, override: str, expected: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(REAL)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, [override])
    assert expected in str(caught.value)
    assert len(caught.value.faults) == 1
