"""Killed at any moment and resumed, a run ends with the bits of one that nobody disturbed."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from interrupts import listen_to_interrupts
from small_scenarios import small_file

import fedgraft
from fedgraft.errors import StoreError

ROUNDS, EVERY = 12, 5
# Enough work that a round takes tens of milliseconds, so that a kill finds the point that it waits for.
CHANGES: dict[str, Any] = {"server": {"rounds": ROUNDS, "checkpoint_every": EVERY}, "train.local_epochs": 6}
STATEFUL = {"strategy": {"name": "flower:FedAdam", "parameters": {"eta": 0.05}}, "server.clients_per_round": 6}
UNEQUAL = ("seconds", "bytes_down", "bytes_up")

# A disk on which writing a file safely takes its time: what is written stands under a temporary name meanwhile.
SLOW_DISK = """
import os, sys, time
fsync = os.fsync
os.fsync = lambda descriptor: (time.sleep(0.3), fsync(descriptor))
from fedgraft.cli import main
main()
"""


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_file(tmp_path_factory.mktemp("plain"), **CHANGES)


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_file(tmp_path_factory.mktemp("stateful"), **CHANGES, **STATEFUL)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], fedgraft.Run]:
    """Return the run of a scenario file that nobody disturbed."""
    folder, runs = tmp_path_factory.mktemp("undisturbed"), {}

    def run_of(scenario: Path) -> fedgraft.Run:
        if scenario not in runs:
            runs[scenario] = fedgraft.run(scenario, out=folder / str(len(runs)))
        return runs[scenario]

    return run_of


def rows_of(run: fedgraft.Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in UNEQUAL} for row in run.metrics]


def assert_same_bits(run: fedgraft.Run, other: fedgraft.Run) -> None:
    assert rows_of(run) == rows_of(other)
    for name in ("client_metrics.csv", "head.safetensors"):
        assert (run.directory / name).read_bytes() == (other.directory / name).read_bytes()
    for group in ("central", "validation", "central_confusion"):
        assert run.summary[group] == other.summary[group]


@contextlib.contextmanager
def started(scenario: Path, out: Path, *, program: list[str] | None = None) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, *(program or ["-m", "fedgraft"]), "run", str(scenario), "--out", str(out), "--quiet"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_interrupts) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"the run ended before it was killed: {process.communicate()[1]}"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def has_row(out: Path, round_number: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return f'"round": {round_number}, "group": "train"' in (out / "metrics.jsonl").read_text()
    return False


def checkpoints(out: Path) -> list[int]:
    return sorted(int(path.stem.rpartition("-")[2]) for path in (out / "checkpoints").glob("round-*.safetensors"))


def being_written(out: Path, name: str) -> bool:
    return any(path.stat().st_size > 0 for path in out.glob(f".{name}.*.tmp"))


POINTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], bool]]] = {
    "before the first checkpoint": (
        lambda out: (out / "run.json").exists(),
        lambda out: checkpoints(out) == [],
    ),
    "while a checkpoint is written": (
        lambda out: being_written(out / "checkpoints", f"round-{EVERY:06d}.safetensors"),
        lambda out: checkpoints(out) == [0],
    ),
    "between two checkpoints": (
        lambda out: has_row(out, EVERY + 2),
        lambda out: checkpoints(out) == [0, EVERY],
    ),
    "after the last round": (
        lambda out: ROUNDS in checkpoints(out),
        lambda out: not (out / "head.safetensors").exists(),
    ),
    "while the results are written": (
        lambda out: (out / "head.safetensors").exists(),
        lambda out: not (out / "summary.json").exists(),
    ),
}


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=() if point == "while a checkpoint is written" else pytest.mark.slow)
        for point in POINTS
    ],
)
def test_killed_and_resumed(
    scenario: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path, point: str
) -> None:
    reached, still = POINTS[point]
    out = tmp_path / "run"
    with started(scenario, out, program=["-c", SLOW_DISK]) as process:
        wait_for(lambda: reached(out), process)
        process.kill()
    assert still(out), "the kill came too late"
    resumed = fedgraft.run(scenario, out=out, resume=True)
    assert_same_bits(resumed, undisturbed(scenario))
    assert not list(out.rglob("*.tmp"))


def test_state_of_the_strategy_is_resumed(
    stateful: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path
) -> None:
    """FedAdam's moments and its count of rounds, killed and resumed by the command line."""
    out = tmp_path / "run"
    with started(stateful, out) as process:
        wait_for(lambda: has_row(out, EVERY + 1), process)
        process.kill()
    assert not (out / "summary.json").exists()
    command = [sys.executable, "-m", "fedgraft", "run", str(stateful), "--out", str(out), "--resume"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"resumed after round {EVERY}" in " ".join(done.stderr.split())
    assert_same_bits(fedgraft.load(out), undisturbed(stateful))


def test_ctrl_c_says_how_to_go_on(scenario: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path) -> None:
    out = tmp_path / "a run [1]"  # what it says can be pasted into a shell
    with started(scenario, out) as process:
        wait_for(lambda: has_row(out, 2), process)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in errors
    said = errors.split("go on with: ")[1].strip()
    assert "\n" not in said
    words = shlex.split(said)
    assert words == ["fedgraft", "run", str(scenario), "--out", str(out), "--quiet", "--resume"]
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), undisturbed(scenario))


def unfinished(run: fedgraft.Run, folder: Path) -> Path:
    """Return a copy of a run as a kill just before its end would leave it."""
    import shutil

    copy = folder / "copy"
    shutil.copytree(run.directory, copy)
    (copy / "summary.json").unlink()
    return copy


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints(
    stateful: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path, damaged: int
) -> None:
    """The one before the last serves; if both are damaged the run begins anew."""
    out = unfinished(undisturbed(stateful), tmp_path)
    for path in sorted((out / "checkpoints").iterdir())[-damaged:]:
        path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    notes: list[str] = []
    resumed = fedgraft.run(
        stateful, out=out, resume=True, on_event=lambda e: notes.append(e["text"]) if e["kind"] == "note" else None
    )
    assert_same_bits(resumed, undisturbed(stateful))
    assert f"checkpoint round-{ROUNDS:06d}.safetensors is damaged" in " ".join(notes)
    last = f"resumed after round {2 * EVERY}" if damaged == 1 else "no checkpoint can be used; the run begins anew"
    assert notes[-1] == last


def test_another_scenario_is_refused(
    scenario: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path
) -> None:
    out = unfinished(undisturbed(scenario), tmp_path)
    text = r"was started with another scenario \(other: seed, train\.batch_size\); resume with its own: fedgraft run "
    with pytest.raises(StoreError, match=text):
        fedgraft.run(scenario, ["seed=2", "train.batch_size=7"], out=out, resume=True)
    # The command that it names works.
    resumed = fedgraft.run(out / "scenario.yaml", out=out, resume=True)
    assert_same_bits(resumed, undisturbed(scenario))


def test_runtime_may_differ(scenario: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path) -> None:
    out = unfinished(undisturbed(scenario), tmp_path)
    resumed = fedgraft.run(scenario, ["runtime.threads=1"], out=out, resume=True)
    assert_same_bits(resumed, undisturbed(scenario))


def test_shards_left_open_are_those_of_the_run(tmp_path: Path) -> None:
    """The run was cut into five; a scenario that leaves it open goes on with these, an explicit other is refused."""
    whole = fedgraft.run(small_file(tmp_path, **CHANGES, shards=5), out=tmp_path / "whole")
    out = unfinished(whole, tmp_path)
    (out / "checkpoints" / f"round-{ROUNDS:06d}.safetensors").unlink()
    (out / "head.safetensors").unlink()
    open_number = small_file(tmp_path, **CHANGES)
    with pytest.raises(StoreError, match=r"started with another scenario \(other: shards\)"):
        fedgraft.run(open_number, ["shards=4"], out=out, resume=True)
    resumed = fedgraft.run(open_number, out=out, resume=True)
    assert resumed.scenario.shards == 5
    assert_same_bits(resumed, whole)


def test_finished_run_says_so(scenario: Path, undisturbed: Callable[[Path], fedgraft.Run]) -> None:
    run = undisturbed(scenario)
    before = {path: path.stat().st_mtime_ns for path in run.directory.rglob("*") if path.is_file()}
    notes: list[Any] = []
    again = fedgraft.run(scenario, out=run.directory, resume=True, on_event=notes.append)
    assert [event["text"] for event in notes] == [f"the run in {run.directory} is finished already"]
    assert again.summary == run.summary
    assert {path: path.stat().st_mtime_ns for path in run.directory.rglob("*") if path.is_file()} == before


def test_newest_unfinished_run_is_found(
    scenario: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished runs, runs of other scenarios and folders of other releases are passed by."""
    monkeypatch.chdir(tmp_path)
    waiting = unfinished(undisturbed(scenario), tmp_path)
    (tmp_path / "runs").mkdir()
    waiting = waiting.rename(tmp_path / "runs" / "small-20260101-000000-aaaa")
    fedgraft.run(scenario)
    other = tmp_path / "runs" / "small-20260102-000000-bbbb"
    other.mkdir()
    (other / "run.json").write_text((waiting / "run.json").read_text())
    (other / "scenario.yaml").write_text("name: small\nno_such_key: 1\n")
    resumed = fedgraft.run(scenario, resume=True)
    assert resumed.directory == waiting
    assert_same_bits(resumed, undisturbed(scenario))


def test_nothing_to_resume_begins(scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before there was a run, `--resume` is still what one was told to type."""
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []

    def hear(event: Any) -> None:
        if event["kind"] == "note":
            notes.append(event["text"])

    run = fedgraft.run(scenario, ["server.rounds=1"], resume=True, on_event=hear)
    assert run.finished
    assert notes[0].startswith("there is no unfinished run of this scenario below ")
    fedgraft.run(scenario, ["server.rounds=1"], out=tmp_path / "new", resume=True, on_event=hear)
    assert f"there is no run in {tmp_path / 'new'} to go on with; it starts from the beginning" in notes


def test_lost_rows_are_said(scenario: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path) -> None:
    out = unfinished(undisturbed(scenario), tmp_path)
    (out / "client_metrics.csv").write_text("round,client\n")
    with pytest.raises(StoreError, match=r"client_metrics\.csv has 13 bytes, the checkpoint saw .*rows are lost"):
        fedgraft.run(scenario, out=out, resume=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a function that gives a disk of so many kilobytes, or makes it so large."""
    place = tmp_path / "disk"
    place.mkdir()

    def sized(kilobytes: int) -> Path:
        options = f"size={kilobytes}k" + (",remount" if place.is_mount() else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if done.returncode != 0:
            pytest.skip("only root can mount a small disk")
        return place

    yield sized
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kilobytes", [4, 12, 28, 60])
def test_disk_full(
    stateful: Path,
    undisturbed: Callable[[Path], fedgraft.Run],
    small_disk: Callable[[int], Path],
    kilobytes: int,
) -> None:
    """Full at the first file, at a checkpoint, at a row, at a picture: said, and resumed once there is space."""
    run = undisturbed(stateful)
    out = small_disk(kilobytes) / "run"
    with pytest.raises(StoreError, match=r"can't write /.*: No space left on device; free space"):
        fedgraft.run(stateful, out=out)
    small_disk(10_000)
    assert_same_bits(fedgraft.run(stateful, out=out, resume=True), run)


def test_file_too_large_on_the_command_line(
    scenario: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path
) -> None:
    """A limit on the size of files is a full disk that needs no root."""
    expected = undisturbed(scenario)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "fedgraft", "run", str(scenario), "--out", str(out), "--quiet"]
    limit = (expected.directory / "metrics.jsonl").stat().st_size * 2 // 3

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # no half-written bytecode under the limit
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited, env=environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "File too large; free space, then go on with --resume" in " ".join(done.stderr.split())
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), expected)


def test_not_writable(scenario: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"can't write .*file/run/.*: Not a directory; .*choose another folder"):
        fedgraft.run(scenario, out=tmp_path / "file" / "run")


def test_events_say_what_was_resumed(
    scenario: Path, undisturbed: Callable[[Path], fedgraft.Run], tmp_path: Path
) -> None:
    out = unfinished(undisturbed(scenario), tmp_path)
    (out / "checkpoints" / f"round-{ROUNDS:06d}.safetensors").unlink()
    rounds: list[int] = []
    fedgraft.run(
        scenario, out=out, resume=True, on_event=lambda e: rounds.append(e["number"]) if e["kind"] == "round" else None
    )
    assert rounds == [11, 12]
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert {"kind": "note", "text": "resumed after round 10"} in events
