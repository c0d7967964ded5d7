"""What a stage makes of the scenario, and what is refused, with the texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_scenarios import SMALL, changed

from fedgraft.errors import ScenarioError
from scenarios.loader import load_scenario
from scenarios.schema import Scenario
from scenarios.stages import KEYS, OF_THE_RUN, Stage
from scenarios.sweep.plan import plan
from scenarios.writer import to_yaml
from strategies.fedprox import FedProx
from strategies.ridge import Ridge


def written(folder: Path, stages: Any, **changes: Any) -> Path:
    path = folder / "staged.yaml"
    path.write_text(yaml.safe_dump(changed(SMALL, {**changes, "stages": stages}), sort_keys=False))
    return path


def faults(folder: Path, stages: Any, *overrides: str, **changes: Any) -> dict[str, str]:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(written(folder, stages, **changes), overrides)
    return {fault.key: fault.message for fault in caught.value.faults}


def test_every_key_is_of_a_stage_or_of_the_run() -> None:
    assert sorted((*KEYS, *OF_THE_RUN, "name")) == sorted(Scenario.model_fields)
    for key in KEYS:
        one, other = Stage.model_fields[key], Scenario.model_fields[key]
        assert (one.annotation, one.default) == (other.annotation, other.default)


def test_what_a_stage_leaves_out_is_as_the_scenario_says(tmp_path: Path) -> None:
    stages = [
        {"name": "one", "strategy": "ridge"},
        {
            "name": "two",
            "strategy": {"mu": 0.5},
            "train": {"optimizer": {"learning_rate": 0.3}},
            "server": {"rounds": 3},
        },
        {"name": "three", "strategy": "fedavg", "train": {"optimizer": "adam"}},
    ]
    base = {"strategy": {"name": "fedprox", "mu": 0.1}, "train.optimizer.momentum": 0.5}
    path = written(tmp_path, stages, **base)
    scenario = load_scenario(path, ["stages.1.train.batch_size=3", "train.local_epochs=4"])
    one, two, three = scenario.stages or ()
    assert (one.strategy, one.server.rounds) == (Ridge(), 1)  # a closed form has no second round
    assert two.strategy == FedProx(mu=0.5)
    assert (two.train.optimizer.learning_rate, two.train.batch_size, two.train.local_epochs) == (0.3, 3, 4)
    assert two.train.optimizer.model_dump()["momentum"] == 0.5  # the block goes on, since its name does
    assert (two.server.rounds, two.server.checkpoint_every) == (3, 2)
    assert (three.strategy.name, three.train.optimizer.name, three.train.batch_size) == ("fedavg", "adam", 8)
    assert three.server == scenario.server
    (tmp_path / "again.yaml").write_text(to_yaml(scenario))
    assert load_scenario(tmp_path / "again.yaml") == scenario
    parts = scenario.in_stages()
    assert [part.strategy for part in parts] == [one.strategy, two.strategy, three.strategy]
    assert all(part.stages is None for part in parts)


def test_in_python_a_stage_takes_whole_blocks(tmp_path: Path) -> None:
    plain = load_scenario(written(tmp_path, None))
    stages = (Stage(name="one", strategy=Ridge()), Stage(name="two"))
    scenario = Scenario.model_validate({**dict(plain), "stages": stages})
    assert scenario.stages is not None
    assert [stage.train for stage in scenario.stages] == [plain.train, plain.train]
    assert [stage.server.rounds for stage in scenario.stages] == [1, 4]


HEAD = {"name": "head"}


@pytest.mark.parametrize(
    ("stages", "key", "text"),
    [
        ([], "stages", "came an empty list; give some, such as {name: head, strategy: fedavg}, or null"),
        (["ridge"], "stages[0]", "came 'ridge' (text); expected a block of keys (name, train, "),
        ([{"strategy": "ridge"}], "stages[0].name", "missing; expected text"),
        ([HEAD, HEAD], "stages[1].name", "came 'head' twice; give each stage a name of its own"),
        ([{**HEAD, "sever": 3}], "stages[0].sever", "here: name, train, unfreeze, pseudo_labels, strategy, server"),
        ([{**HEAD, "seed": 3}], "stages[0].seed", "holds for the whole run: give it once, outside of stages"),
        ([HEAD, {"name": "b", "data": "digits"}], "stages[1].data", "holds for the whole run"),
        ([HEAD, {"name": "b", "runtime": "ray"}], "stages[1].runtime", "holds for the whole run"),
        ([HEAD, {"name": "b", "backbone": "identity"}], "stages[1].backbone", "holds for the whole run"),
        ([HEAD, {"name": "b", "init": "ridge"}], "stages[1].init", "holds for the whole run"),
        ([HEAD, {"name": "b", "stages": []}], "stages[1].stages", "holds for the whole run"),
        ([{**HEAD, "server": {"quorum": 3}}], "stages[0].server.quorum", "came 3, and the scenario has null; it holds"),
        ([{**HEAD, "server": {"rounds": 0}}], "stages[0].server.rounds", "came 0; expected a whole number above 0"),
        ([{**HEAD, "strategy": {"mu": 1}}], "stages[0].strategy.mu", "unknown key; fedavg takes name; 'mu' belongs to"),
        ([HEAD, {"name": "b", "strategy": "centralised"}], "stages[1].strategy", "came centralised after fedavg, but"),
        ([HEAD, {"name": "b", "unfreeze": {"cut": "x"}}], "stages[1].unfreeze", "came with backbone identity"),
        ([HEAD, {"name": "b", "server": {"patience": 2}, "strategy": "ditto"}], "stages[1].server.patience", "came 2"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, stages: list[Any], key: str, text: str) -> None:
    found = faults(tmp_path, stages)
    assert list(found) == [key]
    assert text in found[key]


def test_all_faults_at_once_each_told_once(tmp_path: Path) -> None:
    """A fault of the scenario's own is not told again of each stage that takes its value."""
    adam = {"optimizer": "adam"}
    stages = [
        {"name": "one", "strategy": "fednova", "train": adam, "seed": 3},
        {"name": "two", "strategy": "qfedavg", "train": adam},
    ]
    assert set(faults(tmp_path, stages)) == {
        "stages[0].seed", "stages[0].train.optimizer.name", "stages[1].train.optimizer.name",
    }  # fmt: skip
    assert list(faults(tmp_path, [HEAD, {"name": "two"}], "train.batch_size=-1")) == ["train.batch_size"]


def test_blocks_that_were_trained_are_trained_on_or_held(tmp_path: Path) -> None:
    deep = {"name": "deep", "unfreeze": {"cut": "blocks.5"}}
    base = {"backbone": "bundled:efficientnet_lite0", "data.source": "digits"}
    later: list[tuple[dict[str, Any], str, str]] = [
        ({}, "stages[1].unfreeze", "is null after a stage that trained blocks, which can't be put back; give a cut"),
        ({"strategy": "ridge"}, "stages[1].unfreeze", "ridge needs features of the frozen backbone"),
        ({"unfreeze": {"schedule": [{"round": 2, "cut": "blocks.4"}]}}, "stages[1].unfreeze.schedule", "begins in"),
        ({"unfreeze": {"cut": "blocks.5", "batch_norm": "local"}}, "stages[1].unfreeze.batch_norm", "local came"),
        ({"unfreeze": {"cut": "blocks.5", "method": "bitfit"}}, "stages[1].unfreeze.method", "came bitfit"),
    ]  # fmt: skip
    for settings, key, text in later:
        found = faults(tmp_path, [deep, {"name": "next", **settings}], **base)
        assert list(found) == [key]
        assert text in found[key]
    held = [deep, {"name": "next", "unfreeze": {"cut": "blocks.5", "rate": 0.0}}]
    assert load_scenario(written(tmp_path, held, **base)).unfrozen_in(5)[1] == "blocks.5"


def test_keys_of_stages_are_compared_like_any_other(tmp_path: Path) -> None:
    compare = {
        "grid": {"stages.1.train.optimizer.learning_rate": [0.1, 0.2], "stages.1.strategy": ["fedavg", "fedadam"]}
    }
    path = written(tmp_path, [{"name": "one", "strategy": "ridge"}, HEAD], compare={**compare, "seeds": 1})
    found = plan(path)
    rates = [(run.scenario.stages or ())[1].train.optimizer.learning_rate for run in found.runs]
    assert sorted(rates) == [0.1, 0.1, 0.2, 0.2]
    assert {(run.scenario.stages or ())[1].strategy.name for run in found.runs} == {"fedavg", "fedadam"}
    assert all(str(run.scenario.stages[0].strategy.name) == "ridge" for run in found.runs if run.scenario.stages)


def test_stages_and_tasks_do_not_go_together(tmp_path: Path) -> None:
    tasks = {"data.tasks": [["0", "1"], ["2", "3"]]}
    found = faults(tmp_path, [HEAD, {"name": "b"}], **tasks)
    assert "came beside data.tasks, each of which has all the rounds of the run" in found["stages"]
