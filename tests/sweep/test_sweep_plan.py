"""From a `compare` block to runs: which there are, how they are called, and every fault before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_scenarios import SMALL, changed

from fedgraft.errors import ScenarioError
from scenarios.loader import load_scenario
from scenarios.schema import Scenario
from scenarios.sweep.plan import Plan, plan
from scenarios.writer import to_yaml

GRID = {"strategy": ["fedavg", "ridge"]}


def compare_file(folder: Path, compare: dict[str, Any], **changes: Any) -> Path:
    path = folder / "many.yaml"
    path.write_text(yaml.safe_dump({**changed(SMALL, changes), "compare": compare}, sort_keys=False))
    return path


def planned(folder: Path, compare: dict[str, Any], *overrides: str, **changes: Any) -> Plan:
    return plan(compare_file(folder, compare, **changes), overrides)


def faults(folder: Path, compare: dict[str, Any], *overrides: str, **changes: Any) -> str:
    with pytest.raises(ScenarioError) as caught:
        planned(folder, compare, *overrides, **changes)
    return str(caught.value)


def test_grid_list_and_seeds(tmp_path: Path) -> None:
    """3 strategies x 2 alphas and 1 entry x 2 alphas, each with 2 seeds: 16 runs, those of one seed first."""
    found = planned(
        tmp_path,
        {
            "grid": {"strategy": ["fedavg", {"name": "fedprox", "mu": 0.1}, "ridge"], "data.partition.alpha": [0.1, 9]},
            "list": [{"strategy": "fedavg", "init": "ridge"}],
            "seeds": 2,
        },
    )
    rows = [(run.planned.contender, run.planned.condition, run.planned.seed) for run in found.runs]
    names = ["fedavg", "fedprox", "ridge", "fedavg init=ridge"]
    assert rows == [
        (name, {"data.partition.alpha": alpha}, seed) for seed in (1, 2) for alpha in (0.1, 9) for name in names
    ]
    assert len({run.planned.id for run in found.runs}) == 16
    assert (found.baseline, found.condition_keys) == ("fedavg", ("data.partition.alpha",))
    last = found.runs[-1]
    assert last.planned.settings == {"strategy": "fedavg", "init": "ridge", "data.partition.alpha": 9}
    scenario = last.scenario
    assert (scenario.strategy.name, scenario.init and scenario.init.name, scenario.seed) == ("fedavg", "ridge", 2)
    assert scenario.data.partition.alpha == 9  # type: ignore[union-attr]
    assert scenario.compare is None


def test_a_run_is_what_the_command_line_would_set(tmp_path: Path) -> None:
    grid = {"strategy": [{"name": "fedprox", "mu": 0.3}], "train.optimizer.learning_rate": [0.02], "head.bias": [False]}
    run = planned(tmp_path, {"grid": grid, "seeds": [7]}).runs[0]
    sets = ["strategy={name: fedprox, mu: 0.3}", "train.optimizer.learning_rate=0.02", "head.bias=false", "seed=7"]
    assert run.scenario == load_scenario(tmp_path / "many.yaml", [*sets, "compare=null"])


@pytest.mark.parametrize(
    ("grid", "names"),
    [
        (
            {"strategy": [{"name": "fedprox", "mu": 0.1}, {"name": "fedprox", "mu": 1}]},
            ["mu=0.1", "mu=1"],
        ),
        ({"train.optimizer.learning_rate": [0.1, 0.01]}, ["learning_rate=0.1", "learning_rate=0.01"]),
        ({"data.partition.alpha": [0.1, 1]}, ["fedavg"]),
    ],
)
def test_names(tmp_path: Path, grid: dict[str, Any], names: list[str]) -> None:
    found = planned(tmp_path, {"grid": grid, "seeds": 1})
    assert list(found.contenders) == names


def test_conditions_are_chosen(tmp_path: Path) -> None:
    """What is a circumstance is a matter of the question: here how long clients train."""
    grid = {**GRID, "train.local_epochs": [1, 2], "data.partition.alpha": [0.1, 1]}
    found = planned(tmp_path, {"grid": grid, "seeds": 1, "conditions": ["train"]})
    assert found.condition_keys == ("train.local_epochs",)
    assert len(found.contenders) == 4  # two strategies x two alphas
    assert [run.planned.condition["train.local_epochs"] for run in found.runs] == [1] * 4 + [2] * 4


def test_a_condition_that_an_entry_leaves_open_is_the_scenarios(tmp_path: Path) -> None:
    lies = {"attack": {"name": "sign-flip", "fraction": 0.2}}
    found = planned(tmp_path, {"list": [{"strategy": "fedavg"}, {"strategy": "fedavg", **lies}], "seeds": 1})
    assert [run.planned.condition for run in found.runs] == [{"attack": None}, lies]
    assert [run.planned.id for run in found.runs] == ["fedavg--attack=none--seed=1", "fedavg--attack=sign-flip--seed=1"]


def test_a_key_of_the_grid_can_be_set(tmp_path: Path) -> None:
    path = compare_file(tmp_path, {"grid": {**GRID, "data.partition.alpha": [0.1, 1]}, "seeds": 1})
    found = plan(path, ["compare.grid.data.partition.alpha=[5]", "compare.seeds=[3, 4]"])
    assert [(run.planned.condition, run.planned.seed) for run in found.runs] == [
        ({"data.partition.alpha": 5}, seed) for seed in (3, 3, 4, 4)
    ]


def test_relative_paths_are_those_of_the_file(tmp_path: Path) -> None:
    """Also in the scenario that is kept beside the runs, in another folder."""
    source = {"name": "folder", "path": "cells"}
    found = planned(tmp_path, {"grid": {"data.source": [source, "digits"]}, "seeds": 1})
    assert found.runs[0].scenario.data.source.path == str(tmp_path / "cells")  # type: ignore[union-attr]
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "scenario.yaml").write_text(to_yaml(found.scenario))
    again = plan(tmp_path / "kept" / "scenario.yaml")
    assert [run.scenario for run in again.runs] == [run.scenario for run in found.runs]


def test_a_scenario_object(tmp_path: Path) -> None:
    path = compare_file(tmp_path, {"grid": GRID, "seeds": 2})
    scenario = load_scenario(path)
    assert isinstance(scenario, Scenario)
    assert [run.planned for run in plan(scenario).runs] == [run.planned for run in plan(path).runs]


@pytest.mark.parametrize(
    ("compare", "texts"),
    [
        ({"grid": {"stratgy": ["fedavg"]}}, ["stratgy: unknown key", "did you mean 'strategy'?"]),
        (
            {"grid": {"strategy": [{"name": "fedprox", "mux": 1}], "data.partition.alpha": [1, 2]}},
            ["strategy.mux: unknown key", "did you mean 'mu'?", "(in the run 'fedprox, alpha=1' and 1 more)"],
        ),
        (
            {"grid": {"data.partition.alpha": [1, -1, "x"], "train.batch_size": [0]}},
            ["3 faults", "came -1; expected a number above 0", "came 'x' (text)", "train.batch_size: came 0; expected"],
        ),
        ({"grid": {"strategy": []}}, ["compare.grid: of size zero: strategy has no values"]),
        ({"grid": {}}, ["compare: nothing to compare: give a grid"]),
        ({"list": [{}]}, ["compare.list[0]: an empty entry"]),
        ({"grid": GRID, "seeds": 5001}, ["10,002 runs (2 of strategy, with each of 5,001 seeds), more", "10,000"]),
        ({"grid": GRID, "seeds": [1, 1]}, ["compare.seeds: came [1, 1], in which a seed stands twice"]),
        ({"grid": GRID, "seeds": 0}, ["compare.seeds: came 0"]),
        (
            {"grid": GRID, "baseline": "fedvag"},
            ["compare.baseline: came 'fedvag'; the contenders are fedavg, ridge; did you mean 'fedavg'?"],
        ),
        ({"grid": GRID, "metric": "accuracy"}, ["compare.metric: came 'accuracy'; expected a part (central,"]),
        (
            {"grid": {**GRID, "data.partition.alpha": [1]}, "conditions": ["data.partition.alfa"]},
            ["conditions[0]: came 'data.partition.alfa', which is not", "did you mean 'data.partition.alpha'?"],
        ),
        ({"grid": {"seed": [1]}}, ["compare.grid: came the key 'seed', which can't be compared; give compare.seeds"]),
        ({"grid": {"train..batch_size": [1]}}, ["came the key 'train..batch_size'; write it in full"]),
        ({"grid": {"strategy": ["fedavg", "fedavg"]}}, ["{strategy: fedavg} is the same run as {strategy: fedavg}"]),
        (
            {"grid": {"strategy": ["fedavg", {"name": "krum", "num_malicious": 4}]}},
            ["krum with num_malicious 4 needs 2 x 4 + 3 = 11 clients", "(in the run 'krum')"],
        ),
        ({"grid": GRID, "gird": {}}, ["compare.gird: unknown key", "did you mean 'grid'?"]),
    ],
)  # fmt: skip
def test_faults(tmp_path: Path, compare: dict[str, Any], texts: list[str]) -> None:
    found = faults(tmp_path, compare)
    assert [text for text in texts if text not in found] == [], found


def test_faults_of_the_scenario_and_of_its_runs_come_at_once(tmp_path: Path) -> None:
    """Each with the line where it stands: the compare block's own, too."""
    text = (
        "name: many\nbackbone: identity\ndata:\n  source: digits\n  partition: {name: iid, clients: 4}\n"
        "train: {batch_size: 0}\ncompare:\n  grid:\n    train.local_epochs: [1, none]\n    strategy: [fedavg, ridge]\n"
    )
    (tmp_path / "many.yaml").write_text(text)
    with pytest.raises(ScenarioError) as caught:
        plan(tmp_path / "many.yaml")
    assert str(caught.value).splitlines()[0].endswith(": 2 faults")
    for line in (
        "line 6: train.batch_size: came 0; expected a whole number above 0",
        "line 9: train.local_epochs: came 'none' (text); expected a whole number",
    ):
        assert line in str(caught.value)


def test_a_limit_can_be_raised(tmp_path: Path) -> None:
    assert len(planned(tmp_path, {"grid": GRID, "seeds": 3, "most_runs": 6}).runs) == 6
    assert "6 runs (2 of strategy, with each of 3 seeds), more than most_runs 5" in faults(
        tmp_path, {"grid": GRID, "seeds": 3, "most_runs": 5}
    )


def test_a_scenario_without_a_comparison(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    with pytest.raises(ScenarioError, match=r"compare: missing; say what to compare.*fedgraft run"):
        plan(path)
