"""Strategies from a user's own file: the one of the docs, and what is said of those that can't be used."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_scenarios import SMALL, changed

import fedgraft
from fedgraft.errors import ScenarioError
from scenarios.loader import load_scenario
from scenarios.schema import Scenario
from server.dry_round import check_by_a_dry_round
from strategies.base import Strategy
from strategies.registry import STRATEGIES
from strategies.user import UserStrategy

PAGE = (Path(__file__).parents[2] / "docs" / "add-a-strategy.md").read_text(encoding="utf-8")
TOP = "import numpy as np\nfrom strategies.base import *\nfrom strategies.base import mean_update, moved, Strategy\n"


def scenario_file(folder: Path, code: str, **strategy: Any) -> Path:
    """Write a user's file and a scenario beside it that names it by a relative path."""
    (folder / "mine.py").write_text(code)
    block = {"file": "mine.py", "name": "Mine", **strategy}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(changed(SMALL, {"strategy": block})))
    return path


def code_of_the_docs() -> str:
    (code,) = re.findall(r"```python\n# my_strategy\.py\n(.*?)```", PAGE, re.DOTALL)
    return str(code)


def test_strategy_of_the_docs_runs_as_its_equation_says(tmp_path: Path) -> None:
    """With factor 1 it is FedAvg to the last bit; with 0.5 the steps are 1, 1/2, 1/4, 1/8, also after a resume."""
    assert len(code_of_the_docs().splitlines()) <= 30
    path = scenario_file(tmp_path, code_of_the_docs(), name="Shrinking", parameters={"factor": 1.0})
    same = fedgraft.run(path, out=tmp_path / "same")
    plain = fedgraft.run(path, ["strategy=fedavg"], out=tmp_path / "plain")
    np.testing.assert_array_equal(same.head["weight"], plain.head["weight"])
    halved = fedgraft.run(path, ["strategy.parameters.factor=0.5"], out=tmp_path / "halved")
    steps = [row["step"] for row in halved.metrics if row["group"] == "train"]
    assert steps == [1.0, 0.5, 0.25, 0.125]
    assert halved.summary["strategy"] == "Shrinking"
    for name in ("summary.json", "head.safetensors"):
        (tmp_path / "halved" / name).unlink()
    (tmp_path / "halved" / "checkpoints" / "round-000004.safetensors").unlink(missing_ok=True)
    again = fedgraft.run(halved.scenario, out=tmp_path / "halved", resume=True)
    np.testing.assert_array_equal(again.head["weight"], halved.head["weight"])


def test_facts_are_those_of_the_class(tmp_path: Path) -> None:
    """A closed form of the user's own asks everybody, once, and needs a linear head."""
    code = TOP + (
        "from strategies.ridge import Ridge\n"
        "class Mine(Ridge):\n"
        "    '''Ridge.'''\n"
    )  # fmt: skip
    path = scenario_file(tmp_path, code, parameters={"penalty": 2.0})
    run = fedgraft.run(path, ["server.clients_per_round=2"], out=tmp_path / "run")
    plain = fedgraft.run(path, ["strategy={name: ridge, penalty: 2.0}"], out=tmp_path / "plain")
    np.testing.assert_array_equal(run.head["weight"], plain.head["weight"])
    with pytest.raises(ScenarioError, match=r"head: came mlp, but strategy Mine makes a linear head"):
        fedgraft.run(path, ["head=mlp"], out=tmp_path / "mlp")


AGGREGATE = "    def aggregate(self, state, head, replies):\n        "
CLASS = TOP + "class Mine(Strategy):\n    '''Mine.'''\n"
FAULTS = {
    "no such class": ("class Other: pass\n", "has no class Mine; its subclasses of strategies.base.Strategy: none"),
    "no strategy": ("class Mine: pass\n", "has no strategy class Mine"),
    "does not parse": ("class Mine(:\n", r"can't be imported: SyntaxError: .*line 1"),
    "raises when imported": ("x = 1\nraise KeyError('y')\n", r"can't be imported: KeyError: 'y' \(line 2\)"),
    "no aggregate": (CLASS, "lacks aggregate"),
    "other arguments": (
        CLASS + "    def aggregate(self, replies):\n        return None\n",
        r"Mine.aggregate\(self, replies\) of .*mine.py is called as aggregate\(state, head, replies\): too many",
    ),
    "raises": (
        CLASS + AGGREGATE + "return Outcome(head, {}, {'x': replies[0].sums['updates']})\n",
        "Mine.aggregate raised KeyError in a dry round with toy clients: 'updates'",
    ),
    "returns nothing": (CLASS + AGGREGATE + "pass\n", "aggregate returned None; expected strategies.base.Outcome"),
    "other shapes": (
        CLASS + AGGREGATE + "return Outcome({'weight': head['weight'].T, 'bias': head['bias']}, {})\n",
        r"head has the shapes .*\(3, 2\).*; expected those it was given",
    ),
    "not finite": (
        CLASS + AGGREGATE + "return Outcome({n: v * np.nan for n, v in head.items()}, {})\n",
        "head: weight holds values that are not finite",
    ),
    "state of lists": (
        CLASS + AGGREGATE + "return Outcome(head, {'a': [1]})\n",
        r"'a' is list \[1\]; expected a numpy",
    ),
    "metrics of arrays": (
        CLASS + AGGREGATE + "return Outcome(head, {}, {'norm': np.zeros(2)})\n",
        r"metrics norm are no numbers; write float",
    ),
    "a plan of one request": (
        CLASS + "    def plan(self, state, round_number):\n        return Request()\n" + AGGREGATE + "return None\n",
        r"Mine.plan returned Request .*; expected a tuple",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_can_t_be_used_is_said_before_a_run(name: str, tmp_path: Path) -> None:
    code, text = FAULTS[name]
    with pytest.raises(ScenarioError, match=f"strategy: .*{text}"):
        fedgraft.run(scenario_file(tmp_path, code), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_file_and_wrong_parameters(tmp_path: Path) -> None:
    path = scenario_file(tmp_path, code_of_the_docs(), name="Shrinking", parameters={"factor": 2.0})
    with pytest.raises(ScenarioError, match=r"parameters: factor: Input should be less than or equal to 1; .*factor"):
        fedgraft.run(path, out=tmp_path / "run")
    with pytest.raises(ScenarioError, match=r"gone.py can't be read: No such file"):
        fedgraft.run(path, ["strategy.file=gone.py"], out=tmp_path / "run")


def test_old_run_can_be_read_without_the_file(tmp_path: Path) -> None:
    path = scenario_file(tmp_path, code_of_the_docs(), name="Shrinking")
    run = fedgraft.run(path, ["server.rounds=1"], out=tmp_path / "run")
    (tmp_path / "mine.py").unlink()
    again = fedgraft.load(tmp_path / "run")
    assert again.scenario.strategy.title == "Shrinking"
    np.testing.assert_array_equal(again.head["weight"], run.head["weight"])


def test_scenario_made_in_python_names_an_absolute_path(tmp_path: Path) -> None:
    block = changed(SMALL, {"strategy": {"file": "mine.py", "name": "Mine"}})
    with pytest.raises(ScenarioError, match=r"strategy.file: came 'mine.py'; .* needs the absolute path"):
        fedgraft.run(Scenario.model_validate_json(json.dumps(block)), out=tmp_path / "run")


def test_other_blocks_take_no_file(tmp_path: Path) -> None:
    """A name of the registry beside a file, and a class without one."""
    (tmp_path / "a.yaml").write_text(json.dumps(changed(SMALL, {"strategy": {"file": "mine.py", "name": "fedavg"}})))
    with pytest.raises(ScenarioError, match=r"strategy"):
        load_scenario(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text(json.dumps(changed(SMALL, {"strategy": {"name": "Mine"}})))
    with pytest.raises(ScenarioError, match=r"came the name 'Mine'; expected one of fedavg, .*YourClass"):
        load_scenario(tmp_path / "b.yaml")


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"flower:<Class>"}))
def test_the_dry_round_takes_every_strategy_that_there_is(name: str) -> None:
    """Ours are all fit to be a user's: the toy clients answer whatever a plan can ask."""
    check_by_a_dry_round(STRATEGIES[name]())


def test_changed_file_is_read_anew(tmp_path: Path) -> None:
    code = CLASS + AGGREGATE + "return Outcome(head, {{}}, {{'x': {0}}})\n"
    for number in (1.0, 2.0):
        path = scenario_file(tmp_path, code.format(number))
        strategy = load_scenario(path).strategy
        assert isinstance(strategy, UserStrategy)
        run = fedgraft.run(path, ["server.rounds=1"], out=tmp_path / str(number))
        assert next(row["x"] for row in run.metrics if row["group"] == "train") == number


def test_everything_that_a_strategy_says_is_passed_on() -> None:
    """Facts and functions of the base; one that is added there must be added to the user's too."""
    functions = {name for name, value in vars(Strategy).items() if inspect.isfunction(value) and name[0] != "_"}
    said = functions | set(Strategy.__class_vars__)
    assert sorted(name for name in said if name[0] != "_" and name not in vars(UserStrategy)) == []
