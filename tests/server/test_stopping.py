"""Early stopping: the rule is applied by hand to the losses of a run that was left alone."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from small_scenarios import small
from stopped_runs import stopped_in

import fedgraft
from fedgraft.conduct import run_resolved
from fedgraft.progress import listening

PATIENCE = 3
# Little that can be learnt, and much training: the loss on validation parts soon rises again.
OVERFITTING: dict[str, Any] = {
    "data.source.separation": 1.0,
    "data.source.num_samples": 120,
    "train.local_epochs": 3,
    "train.optimizer.learning_rate": 0.1,
    "server.rounds": 15,
    "server.checkpoint_every": 1,
    "data.validation_fraction": 0.4,
}


def ran(out: Path, resume: bool = False, **changes: Any) -> fedgraft.Run:
    return run_resolved(small(**{**OVERFITTING, **changes}), out, resume=resume, pictures=False, keep_data=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> fedgraft.Run:
    return ran(tmp_path_factory.mktemp("alone") / "run")


@pytest.fixture(scope="module")
def expected(alone: fedgraft.Run) -> tuple[int, int]:
    """Return the round that stops and the best one: the loss of round r is known once round r + 1 has been had."""
    losses = [row["loss"] for row in alone.metrics if row["group"] == "validation"]
    for number in range(1, len(losses)):
        best = int(np.argmin(losses[:number]))
        if number - 1 - best >= PATIENCE:
            assert 0 < best < number < 15
            return number, best
    raise AssertionError("the losses fall to the end; the scenario shows nothing")


def test_it_stops_when_patience_is_at_its_end(alone: fedgraft.Run, expected: tuple[int, int], tmp_path: Path) -> None:
    stop, best = expected
    notes: list[str] = []

    def note(event: Mapping[str, Any]) -> None:
        if event["kind"] == "note":
            notes.append(str(event["text"]))

    with listening(note):
        run = ran(tmp_path / "run", **{"server.patience": PATIENCE})
    assert (run.summary["rounds"], run.summary["best_round"]) == (stop, best)
    assert any(f"the run ends after round {stop} with the head of round {best}" in text for text in notes)
    shorter = ran(tmp_path / "shorter", **{"server.rounds": best})
    assert all(np.array_equal(value, shorter.head[name]) for name, value in run.head.items())
    for group in ("central", "validation"):
        assert run.summary[group] == shorter.summary[group]
    rows = [row for row in run.metrics if row["group"] == "validation"]
    assert [row["loss"] for row in rows] == [
        row["loss"] for row in alone.metrics if row["group"] == "validation" and row["round"] < stop
    ]


def test_stopped_in_between_and_resumed_it_is_the_same(expected: tuple[int, int], tmp_path: Path) -> None:
    stop, best = expected

    patience = {"server.patience": PATIENCE}
    with stopped_in(best + 2):
        ran(tmp_path / "killed", **patience)
    resumed = ran(tmp_path / "killed", resume=True, **patience)
    whole = ran(tmp_path / "whole", **patience)
    assert (resumed.summary["rounds"], resumed.summary["best_round"]) == (stop, best)
    assert (resumed.directory / "head.safetensors").read_bytes() == (whole.directory / "head.safetensors").read_bytes()


def test_with_patience_enough_all_rounds_run(alone: fedgraft.Run, tmp_path: Path) -> None:
    run = ran(tmp_path / "run", **{"server.patience": 15})
    assert "best_round" not in run.summary
    assert all(np.array_equal(value, alone.head[name]) for name, value in run.head.items())


def test_advice_is_to_stop_early_until_it_is_done(tmp_path: Path) -> None:
    """A run that is left alone and trains far too much is told so; one that stopped is not."""
    much = {"train.local_epochs": 30}
    alone, stopped = ran(tmp_path / "alone", **much), ran(tmp_path / "run", **much, **{"server.patience": PATIENCE})
    assert "trained_too_long" in {found["check"] for found in alone.summary["advice"]}
    assert not {"trained_too_long", "trained_too_short"} & {found["check"] for found in stopped.summary["advice"]}


def test_only_rounds_that_were_evaluated_count(expected: tuple[int, int], tmp_path: Path) -> None:
    """Of every fifth round the loss is known: patience of 3 rounds is at its end with the second that is no better."""
    run = ran(tmp_path / "run", **{"server.patience": PATIENCE, "evaluation.every": 5})
    judged = [(row["round"], row["loss"]) for row in run.metrics if row["group"] == "validation"]
    assert [number for number, _ in judged][:2] == [0, 5]
    assert run.summary["best_round"] == min(judged, key=lambda one: one[1])[0] == 5


def test_the_scores_of_clients_at_the_end_are_those_of_the_best_head(tmp_path: Path) -> None:
    """Also where a round asks a few of them: all are asked at the end, so that their scores give the summary's."""
    run = ran(tmp_path / "run", **{"server.patience": PATIENCE, "server.clients_per_round": 4})
    with (run.directory / "client_metrics.csv").open(newline="") as file:
        rows = {row["client"]: row for row in csv.DictReader(file) if row["part"] == "validation" and last(row, run)}
    right = sum(float(row["score"]) * int(row["num_samples"]) for row in rows.values())
    total = sum(int(row["num_samples"]) for row in rows.values())
    assert len(rows) == 9
    assert right / total == pytest.approx(run.summary["validation"]["accuracy"], rel=1e-5)


def last(row: dict[str, str], run: fedgraft.Run) -> bool:
    """Return whether a row speaks of the head that the run ended with."""
    return int(row["round"]) == run.summary["best_round"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"strategy": "local-only"}, "with strategy local-only, but what clients keep for themselves"),
        ({"strategy": "ditto"}, "with strategy ditto, but what clients keep for themselves"),
        ({"data.validation_fraction": 0}, "validation_fraction is 0, so there is no loss to judge by"),
    ],
)
def test_what_can_not_go_back_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        small(**{"server.patience": 2, **changes})


@pytest.mark.parametrize("strategy", ["scaffold", "fine-tune-after", "fedavgm"])
def test_what_the_head_alone_decides_may_stop(strategy: str) -> None:
    assert small(**{"server.patience": 2, "strategy": strategy}).server.patience == 2
