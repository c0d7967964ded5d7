"""SCAFFOLD's client state: killed, forgotten, damaged or moved to other hosts, a run ends with the same bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from small_scenarios import small_file
from stopped_runs import stopped_in
from test_resume import (
    EVERY,
    ROUNDS,
    SLOW_DISK,
    assert_same_bits,
    being_written,
    checkpoints,
    has_row,
    started,
    wait_for,
)

import fedgraft
from clients.app import app as client_app
from clients.host import forget_hosts
from fedgraft.errors import FedGraftError
from fedgraft.simulation.flower_identity import claim_identity
from fedgraft.simulation.inline import FIRST_HOST, RUN, InlineGrid
from fedgraft.submission import RunFacts, Submission
from server.rounds import conduct

CHANGES: dict[str, Any] = {
    "server": {"rounds": ROUNDS, "checkpoint_every": EVERY, "clients_per_round": 4},
    "train.local_epochs": 3,
    "train.form": "dual",
    "strategy": "scaffold",
    "shards": 3,
}
"""Of nine clients in three shards four train in a round: some shards take no part in the round of a checkpoint."""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_file(tmp_path_factory.mktemp("scaffold"), **CHANGES)


@pytest.fixture(scope="module")
def undisturbed(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> fedgraft.Run:
    return fedgraft.run(scenario, out=tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(autouse=True)
def fresh_hosts() -> None:
    """No host remembers the run of another test."""
    forget_hosts()


def state_files(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "client-state").glob("shard-*.safetensors"))


def test_state_makes_a_difference(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path) -> None:
    """What the other tests compare does depend on the state; and FedAvg leaves none."""
    plain = fedgraft.run(scenario, ["strategy=fedavg"], out=tmp_path / "run")
    assert not np.allclose(plain.head["weight"], undisturbed.head["weight"], atol=1e-3)
    assert not (plain.directory / "client-state").exists()
    assert all(path.stat().st_size < 2000 for path in (plain.directory / "checkpoints").iterdir())
    assert "control_norm" in undisturbed.metrics[-3] or any("control_norm" in row for row in undisturbed.metrics)


def stopped(scenario: Path, out: Path, number: int) -> Path:
    """Stop a run after its rows of a round, before its checkpoint."""
    with stopped_in(number):
        fedgraft.run(scenario, out=out)
    forget_hosts()
    return out


@pytest.mark.parametrize("number", [1, EVERY - 1, EVERY, EVERY + 1, 2 * EVERY, 2 * EVERY + 1, ROUNDS])
def test_stopped_and_resumed(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, number: int) -> None:
    """At the rounds of checkpoints the hosts have written state that no checkpoint names."""
    out = stopped(scenario, tmp_path / "run", number)
    assert checkpoints(out)[-1] < number
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), undisturbed)


POINTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], bool]]] = {
    "while client state is written": (
        lambda out: being_written(out / "client-state", "shard-00001-version-*"),
        lambda out: checkpoints(out) == [0],
    ),
    "before the checkpoint that names it": (
        lambda out: len(state_files(out)) == 3,
        lambda out: checkpoints(out) == [0],
    ),
    "between two checkpoints": (
        lambda out: has_row(out, EVERY + 2),
        lambda out: checkpoints(out) == [0, EVERY],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, point: str) -> None:
    reached, still = POINTS[point]
    out = tmp_path / "run"
    with started(scenario, out, program=["-c", SLOW_DISK]) as process:
        wait_for(lambda: (out / "client-state").exists() and reached(out), process)
        process.kill()
    assert still(out), "the kill came too late"
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), undisturbed)
    assert not list(out.rglob("*.tmp"))


def unfinished(run: fedgraft.Run, folder: Path) -> Path:
    copy = folder / "copy"
    shutil.copytree(run.directory, copy)
    (copy / "summary.json").unlink()
    return copy


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_find_their_client_state(
    scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, damaged: int
) -> None:
    out = unfinished(undisturbed, tmp_path)
    for path in sorted((out / "checkpoints").iterdir())[-damaged:]:
        damage(path)
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), undisturbed)


@pytest.mark.parametrize("number", [2 * EVERY + 1, 2 * EVERY])
def test_damaged_after_a_stop_before_the_checkpoint(
    scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, number: int
) -> None:
    """Stopped with three versions of state and two checkpoints, of which the last is damaged."""
    out = stopped(scenario, tmp_path / "run", number)
    damage(out / "checkpoints" / f"round-{checkpoints(out)[-1]:06d}.safetensors")
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), undisturbed)


def notes_of(scenario: Path, out: Path, *also: Callable[[Any], None], resume: bool = False) -> tuple[Any, list[str]]:
    notes: list[str] = []

    def hear(event: Any) -> None:
        if event["kind"] == "note":
            notes.append(event["text"])
        for function in also:
            function(event)

    return fedgraft.run(scenario, out=out, resume=resume, on_event=hear), notes


def test_damaged_client_state_goes_one_checkpoint_further_back(
    scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path
) -> None:
    out = stopped(scenario, tmp_path / "run", 2 * EVERY + 1)
    assert checkpoints(out) == [EVERY, 2 * EVERY]
    last = {name.split("-version")[0]: name for name in state_files(out)}
    for name in last.values():
        damage(out / "client-state" / name)
    run, notes = notes_of(scenario, out, resume=True)
    assert_same_bits(run, undisturbed)
    assert sum("is damaged" in note for note in notes) >= 2
    assert notes[-1].endswith(f"lack their clients' state; the run goes back to the end of round {EVERY}")


def test_lost_client_state_is_said(scenario: Path, tmp_path: Path) -> None:
    out = stopped(scenario, tmp_path / "run", 2 * EVERY + 1)
    shutil.rmtree(out / "client-state")
    with pytest.raises(FedGraftError, match=r"lack their clients' state, and going back .* or start a new run"):
        fedgraft.run(scenario, out=out, resume=True)


def forgetting(rounds: list[int]) -> Callable[[Any], None]:
    """Return a listener that has all hosts forget everything after the given rounds, once each."""
    left = list(rounds)

    def hear(event: Any) -> None:
        if event["kind"] == "round" and event["number"] in left:
            left.remove(event["number"])
            forget_hosts()

    return hear


@pytest.mark.parametrize("rounds", [[2], [EVERY], [EVERY + 2], [3, EVERY + 1, EVERY + 1, 2 * EVERY + 1]])
def test_hosts_that_forget(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, rounds: list[int]) -> None:
    """As hosts that are killed and started again do; just after a checkpoint nothing is lost."""
    run, notes = notes_of(scenario, tmp_path / "run", forgetting(rounds))
    assert_same_bits(run, undisturbed)
    back = [int(note.rpartition(" ")[2]) for note in notes if "the run goes back" in note]
    assert back == [number // EVERY * EVERY for number in rounds if number % EVERY]


def test_it_gives_up(scenario: Path, tmp_path: Path) -> None:
    """A host that forgets after each round never comes to round 8."""
    with pytest.raises(
        FedGraftError, match=r"round 7: the hosts of shards .* going back to a checkpoint did not help 3"
    ):
        fedgraft.run(scenario, out=tmp_path / "run", on_event=forgetting([EVERY + 1] * 100))


def with_hosts(directory: Path, num_hosts: int) -> None:
    """Go on with a run on so many hosts."""
    run_id = json.loads((directory / "run.json").read_text())["run_id"]
    text = json.dumps(fedgraft.load(directory).scenario.model_dump(mode="json"))
    facts = RunFacts(run_id=run_id, directory=str(directory), resume=True, num_hosts=num_hosts)
    submission = Submission(text, facts)
    config = {"scenario": submission.to_run_config()}
    claim_identity(RUN)
    contexts = {}
    for number in range(num_hosts):
        node = {"partition-id": number, "num-partitions": num_hosts}
        contexts[FIRST_HOST + number] = Context(RUN, FIRST_HOST + number, node, RecordDict(), config)
    conduct(InlineGrid(client_app, contexts), submission)


@pytest.mark.parametrize("num_hosts", [2, 3])
def test_resumed_with_other_hosts(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, num_hosts: int) -> None:
    """Shards move to other hosts, and their state with them."""
    out = stopped(scenario, tmp_path / "run", EVERY + 2)
    with_hosts(out, num_hosts)
    assert_same_bits(fedgraft.load(out), undisturbed)


@pytest.mark.parametrize("form", ["loop", "primal"])
def test_other_forms_too(scenario: Path, tmp_path: Path, form: str) -> None:
    change = [f"train.form={form}"]
    whole = fedgraft.run(scenario, change, out=tmp_path / "whole")
    forget_hosts()
    with stopped_in(EVERY + 2):
        fedgraft.run(scenario, change, out=tmp_path / "run")
    forget_hosts()
    assert_same_bits(fedgraft.run(scenario, change, out=tmp_path / "run", resume=True), whole)
