"""Own heads as client state: stopped, forgotten, killed or moved to other hosts, a run ends with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_scenarios import small_file
from test_resume import EVERY, ROUNDS, SLOW_DISK, assert_same_bits, being_written, started, wait_for
from test_resume_state import CHANGES, forgetting, notes_of, stopped, unfinished, with_hosts

import fedgraft
from clients.host import forget_hosts


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    strategy = {"name": "ditto", "pull": 0.5}
    return small_file(tmp_path_factory.mktemp("ditto"), **{**CHANGES, "strategy": strategy})


@pytest.fixture(scope="module")
def undisturbed(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> fedgraft.Run:
    return fedgraft.run(scenario, out=tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(autouse=True)
def fresh_hosts() -> None:
    """No host remembers the run of another test."""
    forget_hosts()


def test_own_heads_make_a_difference(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path) -> None:
    """What the other tests compare does depend on them: with another pull the rows of own heads are others."""
    other = fedgraft.run(scenario, ["strategy.pull=5"], out=tmp_path / "run")
    ours, theirs = ([row for row in run.metrics if row["group"] == "personal"] for run in (undisturbed, other))
    assert [row["round"] for row in ours] == list(range(ROUNDS + 1))
    assert ours[0]["loss"] == theirs[0]["loss"]
    assert abs(ours[-1]["loss"] - theirs[-1]["loss"]) > 1e-3
    assert (other.directory / "head.safetensors").read_bytes() == (
        undisturbed.directory / "head.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("number", [EVERY, EVERY + 1, ROUNDS])
def test_stopped_and_resumed(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, number: int) -> None:
    out = stopped(scenario, tmp_path / "run", number)
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), undisturbed)


@pytest.mark.parametrize("rounds", [[EVERY + 2], [ROUNDS - 1], [ROUNDS]])
def test_hosts_that_forget(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, rounds: list[int]) -> None:
    """Also before the last evaluation, which reads what was written with the last checkpoint."""
    run, _ = notes_of(scenario, tmp_path / "run", forgetting(rounds))
    assert_same_bits(run, undisturbed)


def test_lost_before_the_last_evaluation(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path) -> None:
    """The last version's files are damaged: the run goes back to the checkpoint before and comes to the same end."""
    out = unfinished(undisturbed, tmp_path)
    files = sorted((out / "client-state").glob("shard-*.safetensors"))
    last = {path.name.split("-version")[0]: path for path in files}
    for path in last.values():
        path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    forget_hosts()
    run, notes = notes_of(scenario, out, resume=True)
    assert any("the run goes back to the end of round" in note for note in notes)
    assert_same_bits(run, undisturbed)


@pytest.mark.parametrize("num_hosts", [3])
def test_resumed_with_other_hosts(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path, num_hosts: int) -> None:
    out = stopped(scenario, tmp_path / "run", EVERY + 2)
    with_hosts(out, num_hosts)
    assert_same_bits(fedgraft.load(out), undisturbed)


@pytest.mark.slow
def test_killed_while_own_heads_are_written(scenario: Path, undisturbed: fedgraft.Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with started(scenario, out, program=["-c", SLOW_DISK]) as process:
        wait_for(lambda: being_written(out / "client-state", "shard-00001-version-*"), process)
        process.kill()
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), undisturbed)
