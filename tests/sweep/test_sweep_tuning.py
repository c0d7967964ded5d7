"""Tuning before a comparison: who gets which settings, by which data, at what cost."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from small_scenarios import SMALL, changed

import fedgraft
from fedgraft.commands.compare_display import tries_line
from fedgraft.errors import FedGraftError, ScenarioError, StoreError
from scenarios.comparison.records import Comparison, Forecast, read_comparison
from scenarios.sweep.bench import make_here
from scenarios.sweep.plan import plan
from scenarios.sweep.proposals import proposals
from scenarios.sweep.tune_settings import RangeSettings
from scenarios.sweep.tuning import Step, costs_of_tries, steps_of

RATE = "train.optimizer.learning_rate"
GRID = {"strategy": ["fedavg", "fedprox", "ridge"]}
FRAGILE = """
from pathlib import Path
from strategies.fedavg import FedAvg


class Fragile(FedAvg):
    def plan(self, state, round_number):
        if round_number == 2 and not Path({mended!r}).exists():
            raise ValueError("out of luck")
        return super().plan(state, round_number)
"""
TUNE = {"space": {RATE: {"low": 1e-6, "high": 0.3, "log": True}, "strategy.mu": [0.01, 0.1, 1]}}


def write(folder: Path, tune: dict[str, Any], **changes: Any) -> Path:
    path = folder / "tuned.yaml"
    compare = {"grid": GRID, "seeds": [1, 2], "tune": tune, **changes}
    path.write_text(yaml.safe_dump({**changed(SMALL, {}), "compare": compare}, sort_keys=False))
    return path


def tries(found: Comparison, contender: str) -> list[dict[str, Any]]:
    """Return what lies on disk of a contender's search: one entry a run, from its own files."""
    assert found.directory is not None
    runs = []
    for path in sorted((found.directory / "tuning" / contender).iterdir()):
        scenario = yaml.safe_load((path / "scenario.yaml").read_text())
        runs.append({"scenario": scenario, **json.loads((path / "summary.json").read_text())})
    return runs


def test_steps_by_hand() -> None:
    """Of 9 settings 3 go on, each step has three times the rounds of the one before; 27 halve twice; 4 never do."""
    assert steps_of(9, 3, 20) == [Step(9, 7), Step(3, 20)]
    assert steps_of(27, 3, 20) == [Step(27, 3), Step(9, 7), Step(3, 20)]
    assert steps_of(8, 2, 20) == [Step(8, 5), Step(4, 10), Step(2, 20)]
    assert steps_of(4, 3, 20) == [Step(4, 20)]
    assert steps_of(9, None, 20) == [Step(9, 20)]
    assert steps_of(9, 3, 1) == [Step(9, 1)]  # a closed form has one round, and no need of a second step


def test_a_small_space_is_tried_whole_and_a_large_one_evenly() -> None:
    assert proposals({"a": (1, 2), "b": ("x", "y")}, 4, 0) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    space = {"rate": RangeSettings(low=1e-4, high=1.0, log=True), "block": ({"name": "a"}, {"name": "b"})}
    found = proposals(space, 33, 5)
    assert len({json.dumps(entry) for entry in found}) == 33
    assert proposals(space, 33, 5) == found
    assert proposals(space, 33, 6) != found
    decades = np.floor(np.log10([entry["rate"] for entry in found]) + 4).astype(int)
    counts = np.bincount(decades, minlength=4)  # a sequence that fills evenly: 32 of its points give 8 a decade
    assert counts.sum() == 33
    assert set(counts) <= {7, 8, 9}
    many = proposals({"a": tuple(range(10)), "b": tuple(range(10))}, 60, 0)
    assert len({json.dumps(entry) for entry in many}) == 60


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("tuned")
    return fedgraft.compare(write(folder, TUNE), out=folder / "c", jobs=1)


def test_budgets_are_equal_by_the_records_of_the_runs(tuned: Comparison) -> None:
    """9 settings for 2 of 4 rounds and 3 for all 4: 30 rounds each; ridge trains nothing and has no mu."""
    for contender in ("fedavg", "fedprox"):
        rounds = [run["rounds"] for run in tries(tuned, contender)]
        assert sorted(rounds) == [2] * 9 + [4] * 3
    assert [(one.contender, one.num_settings, one.num_runs, one.num_rounds) for one in tuned.tuning] == [
        ("fedavg", 9, 12, 30),
        ("fedprox", 9, 12, 30),
    ]
    assert sorted(path.name for path in (Path(str(tuned.directory)) / "tuning").iterdir()) == ["fedavg", "fedprox"]


def test_the_choice_is_the_best_on_validation_parts_of_a_seed_of_its_own(tuned: Comparison) -> None:
    """Rates from 1e-6, with which nothing is learned, to 0.3: the best of the last step is what all runs have."""
    for one in tuned.tuning:
        runs = tries(tuned, one.contender)
        assert {run["scenario"]["seed"] for run in runs} == {0}
        last = [run for run in runs if run["rounds"] == 4]
        best = max(last, key=lambda run: (run["validation"]["accuracy"], -run["validation"]["loss"]))
        rate = best["scenario"]["train"]["optimizer"]["learning_rate"]
        assert one.settings[RATE] == rate
        assert one.score == best["validation"]["accuracy"]
        assert rate > 1e-3
        worst = min(runs, key=lambda run: run["scenario"]["train"]["optimizer"]["learning_rate"])
        assert worst["validation"]["accuracy"] < one.score
        for run in tuned.runs:
            if run.contender == one.contender:
                assert run.tuned == one.settings
                scenario = yaml.safe_load((run.directory / "scenario.yaml").read_text())
                assert scenario["train"]["optimizer"]["learning_rate"] == rate
                assert scenario["strategy"].get("mu") == one.settings.get("strategy.mu")
    assert [run.tuned for run in tuned.runs if run.contender == "ridge"] == [{}, {}]


def test_a_killed_search_goes_on_and_chooses_the_same(tuned: Comparison, tmp_path: Path) -> None:
    def interrupt(event: Any) -> None:
        if event["kind"] == "tune" and event["done"] == 14:
            raise KeyboardInterrupt

    path = write(tmp_path, TUNE)
    with pytest.raises(KeyboardInterrupt):
        fedgraft.compare(path, out=tmp_path / "c", jobs=1, on_event=interrupt)
    folder = tmp_path / "c" / "tuning"
    before = {place: place.stat().st_mtime_ns for place in folder.glob("*/*/summary.json")}
    assert 12 <= len(before) < 24
    assert read_comparison(tmp_path / "c").tuning == ()
    found = fedgraft.compare(path, out=tmp_path / "c", jobs=1, resume=True)
    assert {place: place.stat().st_mtime_ns for place in before} == before
    assert found.tuning == tuned.tuning
    assert [run.tuned for run in found.runs] == [run.tuned for run in tuned.runs]


def test_what_a_contender_sets_itself_stays(tmp_path: Path) -> None:
    grid = {"strategy": [{"name": "fedprox", "mu": 0.5}, "fedprox"], "data.partition.alpha": [0.1, 9]}
    found = plan(write(tmp_path, TUNE, grid=grid))
    assert [(one.contender, one.condition["data.partition.alpha"], [*one.space]) for one in found.searches] == [
        ("fedprox mu=0.5", 0.1, [RATE]),
        ("fedprox", 0.1, [RATE, "strategy.mu"]),
        ("fedprox mu=0.5", 9, [RATE]),
        ("fedprox", 9, [RATE, "strategy.mu"]),
    ]


def test_bad_spaces_are_named_all_at_once(tmp_path: Path) -> None:
    space = {"strategy.nu": [1], "train.batch_size": [8, 0], "data.partition.alpha": [1], "seed": [2]}
    with pytest.raises(ScenarioError) as caught:
        plan(write(tmp_path, {"space": space}))
    text = str(caught.value)
    assert "compare.tune.space.strategy.nu: no contender has this key, or each sets it itself" in text
    assert "did you mean 'strategy.mu'" in text
    assert "compare.tune.space.train.batch_size: came 0" in text
    assert "compare.tune.space.data.partition.alpha: can't be searched" in text
    assert "compare.tune.space.seed: can't be searched" in text
    with pytest.raises(ScenarioError, match=r"tune.seed: came 2, which is compared too; take another"):
        plan(write(tmp_path, {**TUNE, "seed": 2}))
    with pytest.raises(ScenarioError, match=r"came 0\.1, which is not above low 0\.3"):
        plan(write(tmp_path, {"space": {RATE: {"low": 0.3, "high": 0.1}}}))


def test_settings_that_nobody_can_run_fail_their_contender_only(tmp_path: Path) -> None:
    """A rate of 1e300 gives numbers that are not finite; the other contender is compared all the same."""
    tune = {"space": {"strategy.mu": [1e300, 2e300]}}
    found = fedgraft.compare(write(tmp_path, tune, seeds=[1]), out=tmp_path / "c", jobs=1)
    assert [(run.contender, run.state) for run in found.runs] == [
        ("fedavg", "finished"),
        ("fedprox", "failed"),
        ("ridge", "finished"),
    ]
    assert str(found.runs[1].error).startswith("none of the 2 settings that were tried could be run; the first says: ")


def test_a_search_that_failed_whole_is_tried_again_and_others_are_not(tmp_path: Path) -> None:
    """All of the first step fail, so that none is left for the second; mended, it is searched for as the other was."""
    odd, mended = tmp_path / "odd.py", tmp_path / "mended"
    odd.write_text(FRAGILE.format(mended=str(mended)))
    grid = {"strategy": [{"file": str(odd), "name": "Fragile"}, "fedavg"]}
    tune = {"space": {RATE: [0.1, 0.05, 0.02, 0.01]}, "halving": 2}
    path = write(tmp_path, tune, grid=grid, seeds=[1])
    found = fedgraft.compare(path, out=tmp_path / "c", jobs=1)
    assert [run.state for run in found.runs] == ["failed", "finished"]
    failed, kept = found.tuning
    assert "out of luck" in str(failed.error)
    assert (failed.num_settings, failed.num_runs, kept.num_runs, kept.error) == (4, 4, 6, None)
    before = {place: place.stat().st_mtime_ns for place in (tmp_path / "c" / "tuning" / "fedavg").iterdir()}

    mended.touch()
    searched: list[str] = []

    def listen(event: Any) -> None:
        searched.extend(search.contender for search in event.get("searches", ()))

    again = fedgraft.compare(path, out=tmp_path / "c", jobs=1, resume=True, on_event=listen)
    assert searched == ["Fragile"]
    assert [run.state for run in again.runs] == ["finished", "finished"]
    assert again.tuning[0].num_runs == 6
    assert again.tuning[0].settings == kept.settings  # it is FedAvg now
    assert again.tuning[1] == kept
    assert {place: place.stat().st_mtime_ns for place in before} == before


def test_a_forecast_of_what_is_there_keeps_what_was_chosen(tuned: Comparison, tmp_path: Path) -> None:
    """Also for a seed that is added; and what decided can't be changed afterwards, but for a part with the same."""
    shutil.copytree(str(tuned.directory), tmp_path / "c")
    path, out = write(tmp_path, TUNE), tmp_path / "c"
    fedgraft.compare(path, ["compare.seeds=[1, 2, 3]"], out=out, dry_run=True, resume=True)
    found = read_comparison(out)
    assert found.tuning == tuned.tuning
    chosen = {one.contender: one.settings for one in tuned.tuning}
    assert [run.tuned for run in found.runs] == [chosen.get(run.contender, {}) for run in found.runs]
    assert len(found.runs) == 9
    for metric in ("validation/accuracy", "central/accuracy"):
        fedgraft.compare(path, [f"compare.metric={metric}"], out=out, dry_run=True, resume=True)
    text = r"came central/macro_f1, but .* were chosen by clients/accuracy; go on with .*, central/accuracy, or begin"
    with pytest.raises(StoreError, match=text):
        fedgraft.compare(path, ["compare.metric=central/macro_f1"], out=out, dry_run=True, resume=True)


def test_tries_have_as_many_processes_as_they_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs are compared, but three settings are tried side by side; each process starts for work that it has."""
    asked: list[tuple[int, int]] = []

    def make(tasks: Any, jobs: int, listener: Any, log: Path) -> None:
        asked.append((len(tasks), jobs))
        make_here(tasks, listener)

    monkeypatch.setattr("scenarios.sweep.benches.make_in_workers", make)
    heard: list[int] = []
    path = write(tmp_path, {"space": {"strategy.mu": [0.01, 0.1, 1]}}, grid={"strategy": ["fedprox", "ridge"]}, seeds=1)
    fedgraft.compare(
        path,
        out=tmp_path / "c",
        jobs=5,
        on_event=lambda event: heard.extend([event["jobs"]] if "jobs" in event else []),
    )
    assert asked == [(3, 3), (2, 2)]
    assert heard == [2]


def test_costs_of_tries_by_hand(tmp_path: Path) -> None:
    """Of 4 rounds: 9 settings for 2 of them, 3 for all; memory is that of any run."""
    found = plan(write(tmp_path, TUNE))
    assert found.settings.tune is not None
    costs = costs_of_tries(found.searches[0], found.settings.tune, Forecast(8.0, 400.0, 5.0))
    assert costs == [Forecast(4.0, 200.0, 5.0)] * 9 + [Forecast(8.0, 400.0, 5.0)] * 3
    assert costs_of_tries(found.searches[0], found.settings.tune, None) == [None] * 12


def test_a_dry_run_says_what_tuning_will_cost(tmp_path: Path) -> None:
    """9 settings for 2 of 4 rounds, and 3 for all, come to 7.5 runs of a contender."""
    heard: list[Any] = []
    path = write(tmp_path, TUNE, grid={"strategy": ["fedprox"]}, seeds=[1])
    found = fedgraft.compare(
        path, dry_run=True, on_event=lambda event: heard.extend(event["costs"] if event["kind"] == "tries" else [])
    )
    [run] = found.runs
    assert run.forecast is not None
    assert run.forecast.bytes is not None
    assert len(heard) == 12
    assert sum(cost.bytes for cost in heard) == pytest.approx(7.5 * run.forecast.bytes)
    twelve_tries = tries_line([Forecast(30.0, 1000.0, 5.0)] * 12)
    assert re.fullmatch(r"tuning: 12 short runs: (.*), about [36] min.*, 12.0 kB sent in all", twelve_tries)


def test_without_optuna_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FedGraftError, match=r"needs optuna.*pip install 'fedgraft\[tune\]'"):
        fedgraft.compare(write(tmp_path, TUNE), out=tmp_path / "c")
