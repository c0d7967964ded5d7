"""Stages of a run against runs of one piece, against steps by hand, and going on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scenarios import relative_difference, small, small_file
from stopped_runs import stopped_in

import fedgraft
from clients.host import Host
from clients.settings import ClientPart
from fedgraft.conduct import run_resolved
from fedgraft.display import result_table
from fedgraft.progress import listening
from fedgraft.wire.requests import TrainRequest
from fedgraft.workspace import open_workspace
from scenarios.loader import load_scenario
from scenarios.schema import Scenario
from strategies.base import Arrays

WHOLE: dict[str, Any] = {"train.local_epochs": 1, "train.batch_size": 1000}
"""One step a round over all of a client's samples: no draw changes a number."""

KEPT_STATE = [
    {"name": "first", "strategy": "ridge"},
    {"name": "second", "strategy": "scaffold", "server": {"rounds": 4}},
    {"name": "third", "strategy": "fedavgm", "server": {"rounds": 2}},
]


def staged(folder: Path, stages: list[dict[str, Any]], **changes: Any) -> Scenario:
    folder.mkdir(exist_ok=True)
    return load_scenario(small_file(folder, **changes, stages=stages))


def ran(scenario: Scenario, out: Path, resume: bool = False) -> fedgraft.Run:
    return run_resolved(scenario, out, resume=resume, pictures=False, keep_data=True)


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())


def bare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without what differs by stages alone, or by chance."""
    return [
        {key: value for key, value in row.items() if key not in ("stage", "seconds", "bytes_up", "bytes_down")}
        for row in rows
    ]


def test_a_run_that_is_cut_in_two_stages_is_the_same_run(tmp_path: Path) -> None:
    """Draws go by the number of the round, and rounds are numbered through, so that not a bit is another."""
    whole = ran(small(), tmp_path / "whole")
    halves = [{"name": name, "server": {"rounds": 2}} for name in ("one", "two")]
    run = ran(staged(tmp_path / "file", halves), tmp_path / "run")
    assert same(run.head, whole.head)
    assert bare(run.metrics) == bare(whole.metrics)
    assert [row["stage"] for row in run.metrics if row["group"] == "train"] == ["one", "one", "two", "two"]
    assert all("stage" not in row for row in whole.metrics)


def test_a_closed_form_and_then_fedavg_is_fedavg_that_starts_from_it(tmp_path: Path) -> None:
    whole = ran(small(init={"name": "ridge"}, **WHOLE), tmp_path / "whole")
    stages = [{"name": "start", "strategy": "ridge"}, {"name": "rest"}]
    run = ran(staged(tmp_path / "file", stages, **WHOLE), tmp_path / "run")
    for name, value in run.head.items():
        assert relative_difference(value, whole.head[name]) < 1e-6
    assert run.summary["central"]["accuracy"] == whole.summary["central"]["accuracy"]
    assert [row["round"] for row in run.metrics if row["group"] == "train"] == [1, 2, 3, 4, 5]
    made = next(row for row in whole.metrics if row["group"] == "init")
    assert run.metrics[2]["penalty"] == made["penalty"]


def test_steps_by_hand(tmp_path: Path) -> None:
    """One whole-batch step a round is gradient descent on all samples; warm-up counts the rounds of the stage.

    The rates are 0.4 in round 1, then 0.3 / 2 and 0.3 in rounds 2 and 3, from the gradient of the mean cross-entropy
    `X^T (softmax(X W^T + b) - Y) / n`.
    """
    stages = [
        {"name": "fast", "server": {"rounds": 1}, "train": {"optimizer": {"learning_rate": 0.4}}},
        {"name": "slow", "train": {"optimizer": {"learning_rate": 0.3}, "schedule": {"warmup_rounds": 1}}},
    ]
    scenario = staged(tmp_path / "file", stages, **{**WHOLE, "server.rounds": 2})
    run = ran(scenario, tmp_path / "run")
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    rows = np.concatenate([workspace.federation.train.of(client) for client in range(9)])
    features = np.hstack([np.asarray(workspace.features[rows], dtype=np.float64), np.ones((len(rows), 1))])
    wanted = np.eye(4)[np.asarray(workspace.federation.samples.targets)[rows]]
    weights = np.zeros((4, features.shape[1]))
    for rate in (0.4, 0.15, 0.3):
        powers = np.exp(features @ weights.T)
        weights -= rate * (powers / powers.sum(1, keepdims=True) - wanted).T @ features / len(rows)
    assert relative_difference(run.head["weight"], weights[:, :-1]) < 1e-5
    assert relative_difference(run.head["bias"], weights[:, -1]) < 1e-5


def test_what_clients_keep_begins_anew(tmp_path: Path) -> None:
    """With control variates of zero SCAFFOLD's first round is FedAvg's; with those of the stage before it is not."""
    first = {"name": "first", "strategy": "scaffold", "server": {"rounds": 2}}
    ends = [
        [first, {"name": "second", "strategy": strategy, "server": {"rounds": 1}}]
        for strategy in ("scaffold", "fedavg")
    ]
    anew, plain = (
        ran(staged(tmp_path / f"file{number}", stages), tmp_path / f"run{number}") for number, stages in enumerate(ends)
    )
    for name, value in anew.head.items():
        assert relative_difference(value, plain.head[name]) < 1e-6
    on = ran(small(strategy={"name": "scaffold"}, **{"server.rounds": 3}), tmp_path / "on")
    assert relative_difference(on.head["weight"], plain.head["weight"]) > 1e-4


@pytest.mark.parametrize(
    ("stop_after", "checkpoint_every"),
    [(1, 1), (3, 1), pytest.param(3, 5, id="back to the stage before"), pytest.param(5, 1, id="at the border"), (6, 1)],
)
def test_killed_in_a_later_stage_and_resumed_equals_undisturbed(
    stop_after: int, checkpoint_every: int, tmp_path: Path
) -> None:
    scenario = staged(tmp_path / "file", KEPT_STATE, **{"server.checkpoint_every": checkpoint_every})

    with stopped_in(stop_after + 1):
        ran(scenario, tmp_path / "killed")
    resumed, whole = ran(scenario, tmp_path / "killed", resume=True), ran(scenario, tmp_path / "whole")
    assert (resumed.directory / "head.safetensors").read_bytes() == (whole.directory / "head.safetensors").read_bytes()
    assert bare(resumed.metrics) == bare(whole.metrics)
    assert [row["stage"] for row in whole.metrics if row["group"] == "train"] == [
        "first",
        *4 * ["second"],
        *2 * ["third"],
    ]
    named = [(stage["name"], stage["strategy"], stage["rounds"]) for stage in resumed.summary["stages"]]
    assert named == [("first", "ridge", 1), ("second", "scaffold", 4), ("third", "fedavgm", 2)]


OVERFITTING: dict[str, Any] = {
    "data.source.separation": 1.0,
    "data.source.num_samples": 120,
    "train.local_epochs": 3,
    "data.validation_fraction": 0.4,
    "server.rounds": 15,
    "server.checkpoint_every": 1,
}
"""Little that can be learnt, and much training: the loss on validation parts soon rises again."""


def test_a_stage_that_stops_early_hands_its_best_head_on(tmp_path: Path) -> None:
    """The best head, by the losses of a run that was left alone, is the one that the next stage begins with."""
    alone = ran(small(**OVERFITTING), tmp_path / "alone")
    losses = [row["loss"] for row in alone.metrics if row["group"] == "validation"]
    stop = next(number for number in range(1, 15) if number - 1 - int(np.argmin(losses[:number])) >= 3)
    best = int(np.argmin(losses[:stop]))
    assert 0 < best < stop < 15
    stages = [{"name": "long", "server": {"patience": 3}}, {"name": "short", "server": {"rounds": 2}}]
    scenario = staged(tmp_path / "file", stages, **OVERFITTING)
    notes: list[str] = []
    with listening(lambda event: notes.append(str(event.get("text", "")))):
        run = ran(scenario, tmp_path / "run")
    assert any(f"stage long ends after round {stop} with the head of round {best}" in text for text in notes)
    assert "stage 2 of 2, short: fedavg, rounds 16 to 17" in notes
    long, short = run.summary["stages"]
    assert (long["rounds"], long["best_round"], long["last_round"]) == (stop, best, stop)
    assert (short["rounds"], short["first_round"], run.summary["rounds"]) == (2, 16, stop + 2)
    rows = {(row["round"], row["group"]): row for row in run.metrics}
    for group in ("central", "validation"):  # of the head that the next stage received, which is that of `best`
        there = next(row for row in alone.metrics if (row["round"], row["group"]) == (best, group))
        assert rows[15, group]["loss"] == there["loss"] == long[group]["loss"]
    assert rows[15, "train"] | {"seconds": 0} == {
        **{"round": 15, "group": "train", "stage": "long", "num_clients": 0, "head_of_round": best},
        **{"bytes_down": 0, "bytes_up": 0, "seconds": 0},
    }

    with stopped_in(16):
        ran(scenario, tmp_path / "killed")
    resumed = ran(scenario, tmp_path / "killed", resume=True)
    assert same(resumed.head, run.head)
    assert bare(resumed.metrics) == bare(run.metrics)


def test_the_last_stage_may_end_with_the_head_that_it_began_with(tmp_path: Path) -> None:
    """Ridge is as good as it gets; steps far too long only spoil it, so the run ends with it."""
    stages = [
        {"name": "solved", "strategy": "ridge"},
        {"name": "spoilt", "train": {"optimizer": {"learning_rate": 50.0}}, "server": {"patience": 2}},
    ]
    run = ran(staged(tmp_path / "file", stages), tmp_path / "run")
    ridge = ran(small(strategy={"name": "ridge"}), tmp_path / "ridge")
    assert same(run.head, ridge.head)
    assert run.summary["best_round"] == run.summary["head_round"] == 1
    assert run.summary["stages"][1]["rounds"] == 3
    assert run.summary["central"] == ridge.summary["central"] == run.summary["stages"][1]["central"]


def test_the_summary_speaks_of_the_last_stage_and_lists_all(tmp_path: Path) -> None:
    scenario = staged(tmp_path / "file", KEPT_STATE)
    run = run_resolved(scenario, tmp_path / "run", keep_data=True)
    summary, text = run.summary, (run.directory / "summary.txt").read_text()
    assert (summary["strategy"], summary["rounds"], summary["head_round"]) == ("fedavgm", 7, 7)
    rows = [row for row in run.metrics if row["group"] == "train"]
    for stage in summary["stages"]:
        own = [row for row in rows if row["stage"] == stage["name"]]
        assert stage["bytes_up"] == sum(row["bytes_up"] for row in own)
        assert stage["seconds"] == pytest.approx(sum(row["seconds"] for row in own), abs=1e-3)
        ends = [row for row in run.metrics if row["group"] == "central" and row["round"] == own[-1]["round"]]
        assert stage["central"]["accuracy"] == ends[0]["accuracy"]
    assert "strategy                             ridge, then scaffold, then fedavgm" in text
    assert "stage second                         scaffold, 4 rounds, accuracy" in text
    assert (run.directory / "accuracy.png").stat().st_size > 10_000
    assert [cell for cell in result_table(run).columns[0].cells if cell.startswith("stage")] == [
        *("stage first: ridge", "stage second: scaffold", "stage third: fedavgm"),
    ]


def test_a_host_trains_by_the_settings_of_the_stage_that_a_round_is_of() -> None:
    """An epoch is a step in stage one, and eight times that many in stage two; rounds 1 to 3 are of the first."""
    base = {"runtime": "inline", "shards": 1, "server.rounds": 3, "train.batch_size": 1000}
    stages = [
        {"name": "one", **json.loads(small(**base).model_dump_json(include={"train", "server"}))},
        {
            "name": "two",
            "server": {"rounds": 2, "checkpoint_every": 2},
            "train": {"batch_size": 1000, "local_steps": 8},
        },
    ]
    part = ClientPart.model_validate_json(small(**base, stages=stages).model_dump_json())
    head = {"weight": np.zeros((4, 6), dtype=np.float32), "bias": np.zeros(4, dtype=np.float32)}
    host = Host(part, 0, 1)
    steps = {}
    for number in (1, 3, 4, 5, 3):
        request = TrainRequest(run_id="stages-of-a-host", weights_digest="", round_number=number, shard=0)
        _, groups = host.train(request, {"head": head, "clients": {"index": np.array([0])}})
        steps[number] = int(groups["clients"]["steps"][0])
    assert steps == {1: 2, 3: 2, 4: 8, 5: 8}
