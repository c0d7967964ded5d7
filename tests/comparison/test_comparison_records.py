"""The record of a comparison: written and read back, refused where it is damaged, and put together of lone runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_scenarios import small

import fedgraft
from fedgraft.errors import StoreError
from scenarios.comparison.gathered import comparison_of_runs
from scenarios.comparison.names import contender_names, flat
from scenarios.comparison.records import Comparison, Forecast, PlannedRun, read_comparison

ALPHA = "data.partition.alpha"


def planned(contender: str, alpha: float, seed: int) -> PlannedRun:
    settings = {"strategy": {"name": contender, "mu": 0.1}, ALPHA: alpha, "seed": seed}
    forecast = Forecast(seconds=1.5, bytes=2e6) if seed == 1 else None
    return PlannedRun(f"{contender}-{alpha}-{seed}", contender, {ALPHA: alpha}, settings, seed, forecast)


def comparison(**changes: Any) -> Comparison:
    runs = tuple(planned(name, alpha, seed) for name in ("fedavg", "ridge") for alpha in (0.1, 10.0) for seed in (1, 2))
    plan = Comparison(
        comparison_id="7f0c",
        name="strategies",
        baseline="fedavg",
        metric="central/accuracy",
        target=0.9,
        seeds=(1, 2),
        condition_keys=(ALPHA,),
        created="2026-01-31T12:00:00Z",
        environment={"fedgraft": "0.1.0", "libraries": {"torch": "2.9"}},
        runs=runs,
    )
    return replace(plan, **changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = comparison().write(tmp_path)
    assert read_comparison(tmp_path) == written == comparison()
    assert written.directory == tmp_path
    assert [run.directory for run in written.runs][:2] == [
        tmp_path / "runs" / "fedavg-0.1-1",
        tmp_path / "runs" / "fedavg-0.1-2",
    ]
    assert written.contenders == ("fedavg", "ridge")
    assert written.conditions == ({ALPHA: 0.1}, {ALPHA: 10.0})
    assert [run.id for run in written.runs_in({ALPHA: 10.0})] == [
        "fedavg-10.0-1",
        "fedavg-10.0-2",
        "ridge-10.0-1",
        "ridge-10.0-2",
    ]


def test_the_state_of_a_run_is_read_off_its_directory(tmp_path: Path) -> None:
    run = comparison().write(tmp_path).runs[0]
    assert (run.state, run.error) == ("open", None)
    run.fail("the head is not finite")
    assert (run.state, run.error) == ("failed", "the head is not finite")
    run.retry()
    assert run.state == "open"
    run.fail("once more")
    (run.directory / "failed.json").write_text("{}")
    assert run.error is not None
    assert "damaged" in run.error
    (run.directory / "summary.json").write_text("{}")
    assert (run.state, run.error) == ("finished", None)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"schema": 7}, "has schema 7, this release of FedGraft knows 1"),
        ({"baseline": "fedprox"}, "baseline: came 'fedprox', which is none of the contenders: fedavg, ridge"),
        ({"metric": "accuracy"}, "metric: string should match pattern"),
        ({"seeds": [1]}, "run fedavg-0.1-2: seed 2 is none of the seeds 1"),
        ({"condition_keys": []}, "condition has the keys ['data.partition.alpha'], expected some of []"),
        ({"runs": []}, "runs: tuple should have at least 1 item"),
        ({"colour": 1}, "colour: unexpected keyword argument"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    comparison().write(tmp_path)
    path = tmp_path / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError) as caught:
        read_comparison(tmp_path)
    assert text in str(caught.value)


@pytest.mark.parametrize("bad", ["../../elsewhere", "a/b", "", ".hidden"])
def test_a_run_can_not_lie_outside(tmp_path: Path, bad: str) -> None:
    comparison().write(tmp_path)
    path = tmp_path / "comparison.json"
    tree = json.loads(path.read_text())
    tree["runs"][0]["id"] = bad
    path.write_text(json.dumps(tree))
    with pytest.raises(StoreError, match=r"runs\.0\.id: string should"):
        read_comparison(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b"\xff\xfe", b'{"schema": 1}'])
def test_a_damaged_record_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "comparison.json").write_bytes(data)
    with pytest.raises(StoreError, match="is damaged"):
        read_comparison(tmp_path)


def test_no_record_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no comparison"):
        read_comparison(tmp_path)


def test_two_runs_of_one_place_are_refused(tmp_path: Path) -> None:
    one, *others = comparison().runs
    with pytest.raises(StoreError, match=r"contender 'fedavg' has two runs of seed 1 under .*0\.1"):
        comparison(runs=(one, *others, replace(one, id="again"))).write(tmp_path)
    with pytest.raises(StoreError, match=r"fedavg-0\.1-1 stands for two runs"):
        comparison(runs=(one, *others, replace(one, seed=2, contender="fedprox"))).write(tmp_path)


def scenario(strategy: Any, **more: Any) -> dict[str, Any]:
    return flat({"strategy": {"name": strategy} if isinstance(strategy, str) else strategy, **more})


def test_contenders_are_named_by_what_tells_them_apart() -> None:
    prox = {"name": "fedprox", "mu": 0.1}
    assert contender_names([scenario("fedavg"), scenario(prox), scenario("ridge")]) == ["fedavg", "fedprox", "ridge"]
    assert contender_names([scenario("fedavg"), scenario(prox), scenario({"name": "fedprox", "mu": 1.0})]) == [
        "fedavg",
        "fedprox mu=0.1",
        "fedprox mu=1.0",
    ]
    assert contender_names([scenario("fedavg", init=None), scenario("fedavg", init={"name": "ridge", "x": 3})]) == [
        "fedavg",
        "fedavg init=ridge",
    ]
    rates = [scenario("fedavg", train={"optimizer": {"learning_rate": rate}}) for rate in (0.1, 0.01)]
    assert contender_names(rates) == ["learning_rate=0.1", "learning_rate=0.01"]
    assert contender_names(rates[:1]) == ["fedavg"]


def test_names_that_would_be_the_same_say_more() -> None:
    both = [scenario("fedavg", one={"size": 1}, two={"size": 1}), scenario("fedavg", one={"size": 1}, two={"size": 2})]
    both += [scenario("fedavg", one={"size": 2}, two={"size": 1})]
    assert contender_names(both) == ["one.size=1 two.size=1", "one.size=1 two.size=2", "one.size=2"]


@pytest.fixture(scope="module")
def lone_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of two strategies, under two skews and two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for strategy in ("ncm", "fedavg"):
        for alpha, seed in ((0.5, 1), (0.5, 2), (5.0, 1)):
            name = f"{strategy}-{alpha}-{seed}"
            changes = {"strategy": {"name": strategy}, ALPHA: alpha, "seed": seed, "server.rounds": 1}
            found[name] = fedgraft.run(small(**changes), out=folder / name).directory
    return found


def test_lone_runs_make_a_comparison(lone_runs: dict[str, Path]) -> None:
    made = comparison_of_runs(list(lone_runs.values()))
    assert made.contenders == ("ncm", "fedavg")
    assert made.baseline == "ncm"
    assert made.conditions == ({ALPHA: 0.5}, {ALPHA: 5.0})
    assert made.seeds == (1, 2)
    assert {run.directory for run in made.runs} == set(lone_runs.values())
    assert all(run.state == "finished" for run in made.runs)
    assert made.left_out == ()
    assert any("data.partition.alpha" in note for note in made.notes)
    assert comparison_of_runs(list(lone_runs.values()), baseline="fedavg").baseline == "fedavg"
    with pytest.raises(StoreError, match="came 'fedprox', which is none of the contenders: ncm, fedavg"):
        comparison_of_runs(list(lone_runs.values()), baseline="fedprox")


def test_directories_that_can_not_be_used_are_named(lone_runs: dict[str, Path], tmp_path: Path) -> None:
    good = lone_runs["ncm-0.5-1"]
    copies = {name: tmp_path / name for name in ("torn", "empty-summary", "open", "twin")}
    for path in copies.values():
        shutil.copytree(good, path)
    (copies["torn"] / "run.json").write_text("{")
    (copies["empty-summary"] / "summary.json").write_text("")
    (copies["open"] / "summary.json").unlink()
    made = comparison_of_runs([good, *copies.values(), tmp_path / "nowhere", good])
    assert [run.directory for run in made.runs] == [good]
    reasons = {entry.path.name: entry.reason for entry in made.left_out}
    assert set(reasons) == {"torn", "empty-summary", "open", "twin", "nowhere"}
    assert "run.json is damaged" in reasons["torn"]
    assert "damaged" in reasons["empty-summary"]
    assert "is not finished" in reasons["open"]
    assert "holds no run" in reasons["nowhere"]
    assert str(good) in reasons["twin"]
    with pytest.raises(StoreError, match=r"no finished run to report on(?s:.*)is not finished"):
        comparison_of_runs([copies["open"]])


def test_runs_of_other_tasks_are_refused(lone_runs: dict[str, Path], tmp_path: Path) -> None:
    changes = {"data.source.num_classes": 3, "server.rounds": 1}
    other = fedgraft.run(small(**changes), out=tmp_path / "other").directory
    with pytest.raises(StoreError, match="they differ in label_names"):
        comparison_of_runs([lone_runs["ncm-0.5-1"], other])
