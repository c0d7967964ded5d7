"""Runs of a comparison: equal to runs alone, resumable one by one, and none ends the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_scenarios import SMALL, changed

import fedgraft
from fedgraft.errors import FedGraftError, LaunchError, StoreError
from fedgraft.features.locks import locked
from fedgraft.features.store import FeatureStore
from scenarios.comparison.records import Comparison, read_comparison
from scenarios.sweep.conduct import as_json_document

UNEQUAL = ("seconds", "bytes_down", "bytes_up")
COMPARE = {"grid": {"strategy": ["fedavg", "scaffold"], "data.partition.alpha": [0.1, 100]}, "seeds": 2}
ODD = """
import os, signal
from strategies.fedavg import FedAvg


class Fails(FedAvg):
    \"\"\"Can't go on after the first round, which a short run finds out.\"\"\"

    def plan(self, state, round_number):
        if round_number == 2:
            raise ValueError("out of luck")
        return super().plan(state, round_number)


class Dies(FedAvg):
    \"\"\"Ends its process in round 3.\"\"\"

    def plan(self, state, round_number):
        if round_number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().plan(state, round_number)
"""


def with_odd_one(folder: Path, name: str) -> dict[str, Any]:
    """Return a comparison of FedAvg with a strategy that does not come to its end."""
    (folder / "odd.py").write_text(ODD)
    return {"grid": {"strategy": ["fedavg", {"file": str(folder / "odd.py"), "name": name}]}, "seeds": 2}


def write(folder: Path, compare: dict[str, Any], **changes: Any) -> Path:
    path = folder / "many.yaml"
    path.write_text(yaml.safe_dump({**changed(SMALL, changes), "compare": compare}, sort_keys=False))
    return path


def states(found: Comparison) -> list[str]:
    return [run.state for run in found.runs]


def rows_of(run: fedgraft.Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in UNEQUAL} for row in run.metrics]


def assert_same_bits(one: Path, other: Path) -> None:
    assert rows_of(fedgraft.Run(one)) == rows_of(fedgraft.Run(other))
    for name in ("client_metrics.csv", "head.safetensors", "scenario.yaml"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def stamps(found: Comparison) -> dict[str, int]:
    return {
        run.id: (run.directory / "summary.json").stat().st_mtime_ns for run in found.runs if run.state == "finished"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("whole")
    return fedgraft.compare(write(folder, COMPARE), out=folder / "c", jobs=1)


def test_every_run_is_the_run_alone(whole: Comparison, tmp_path: Path) -> None:
    assert states(whole) == ["finished"] * 8
    for number in (0, 3, 5):
        run = whole.runs[number]
        sets = [f"strategy={run.settings['strategy']}", f"data.partition.alpha={run.settings['data.partition.alpha']}"]
        path = write(tmp_path, COMPARE)
        alone = fedgraft.run(path, [*sets, f"seed={run.seed}", "compare=null"], out=tmp_path / str(number))
        assert_same_bits(run.directory, alone.directory)
        assert not (run.directory / "accuracy.png").exists()
        assert (alone.directory / "accuracy.png").exists()


def test_worker_processes_give_the_same_bits(whole: Comparison, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    path = write(tmp_path, COMPARE)
    found = fedgraft.compare(path, out=tmp_path / "c", jobs=2, on_event=lambda event: heard.append(dict(event)))
    assert [event["jobs"] for event in heard if event["kind"] == "jobs"] == [2]
    for run, same in zip(found.runs, whole.runs, strict=True):
        assert_same_bits(run.directory, same.directory)
    ends = [event["id"] for event in heard if event["kind"] == "run" and event["what"] == "finished"]
    assert sorted(ends) == sorted(run.id for run in found.runs)
    assert not (tmp_path / "c" / "workers.log").exists()  # nothing was printed


def test_forecasts(whole: Comparison) -> None:
    """Bytes of rounds are all the same, so two rounds tell those of four, but for the digits of some numbers."""
    for run in whole.runs:
        assert run.forecast is not None
        summary = run.run.summary
        assert run.forecast.bytes == pytest.approx(summary["bytes_down"] + summary["bytes_up"], rel=1e-3)
        assert run.forecast.seconds is not None
        assert 0 < run.forecast.seconds < 60
        assert run.forecast.memory_bytes == pytest.approx(summary["peak_memory_bytes"], rel=0.3)


def test_an_interrupted_comparison_goes_on(whole: Comparison, tmp_path: Path) -> None:
    path = write(tmp_path, COMPARE)

    def interrupt(event: Any) -> None:
        if event["kind"] == "run" and event["what"] == "round" and event["number"] == 3 and ended:
            raise KeyboardInterrupt
        if event["kind"] == "run" and event["what"] == "finished":
            ended.append(event["id"])

    ended: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        fedgraft.compare(path, out=tmp_path / "c", jobs=1, on_event=interrupt)
    before = read_comparison(tmp_path / "c")
    assert states(before) == ["finished"] + ["open"] * 7
    kept = stamps(before)
    with pytest.raises(StoreError, match=r"already holds a comparison; give another folder with --out, or --resume"):
        fedgraft.compare(path, out=tmp_path / "c")
    found = fedgraft.compare(path, out=tmp_path / "c", jobs=1, resume=True)
    assert states(found) == ["finished"] * 8
    assert (found.comparison_id, found.created) == (before.comparison_id, before.created)
    assert stamps(found)[before.runs[0].id] == kept[before.runs[0].id]
    for run, same in zip(found.runs, whole.runs, strict=True):
        assert_same_bits(run.directory, same.directory)


def test_more_seeds_are_added(tmp_path: Path) -> None:
    compare = {"grid": {"strategy": ["ncm", "ridge"]}, "seeds": 1}
    path = write(tmp_path, compare)
    first = stamps(fedgraft.compare(path, out=tmp_path / "c", jobs=1))
    found = fedgraft.compare(path, ["compare.seeds=[1, 5]"], out=tmp_path / "c", jobs=1, resume=True)
    assert [(run.contender, run.seed, run.state) for run in found.runs] == [
        (name, seed, "finished") for seed in (1, 5) for name in ("ncm", "ridge")
    ]
    assert stamps(found).items() > first.items()
    with pytest.raises(StoreError, match=r"begun with another scenario \(other: server.rounds\); go on with its own"):
        fedgraft.compare(path, ["server.rounds=7"], out=tmp_path / "c", resume=True)
    with pytest.raises(StoreError, match=r"other: compare.grid.strategy"):
        fedgraft.compare(path, ["compare.grid.strategy=[ncm, lda]"], out=tmp_path / "c", resume=True)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path, jobs: int) -> None:
    path = write(tmp_path, with_odd_one(tmp_path, "Fails"))
    found = fedgraft.compare(path, out=tmp_path / "c", jobs=jobs)
    assert [(run.contender, run.state) for run in found.runs] == [("fedavg", "finished"), ("Fails", "failed")] * 2
    failed = found.runs[1]
    assert failed.forecast is None
    assert "out of luck" in str(failed.error)
    assert [row["state"] for row in as_json_document(found)["runs"]] == ["finished", "failed"] * 2
    heard = []
    again = fedgraft.compare(
        path, out=tmp_path / "c", jobs=1, resume=True, on_event=lambda event: heard.append(event.get("what"))
    )
    assert heard.count("started") == 2  # failed ones are tried again, finished ones are not
    assert states(again) == states(found)


def test_a_scenario_that_nobody_can_run_is_one_error(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"grid": {"strategy": ["fedavg", "ridge"]}}, **{"data.source": {"name": "folder", "path": "x"}}
    )
    with pytest.raises(FedGraftError, match="none of the contenders can be run; the first says: "):
        fedgraft.compare(path, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_two_processes_can_not_be_at_one_comparison(tmp_path: Path) -> None:
    path = write(tmp_path, {"grid": {"strategy": ["ncm"]}, "seeds": 1})
    (tmp_path / "c").mkdir()
    with locked(tmp_path / "c" / ".lock"), pytest.raises(LaunchError, match="another process is at the comparison"):
        fedgraft.compare(path, out=tmp_path / "c")


def test_frozen_work_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone's features of all samples: computed for the forecast, and by none of the eight runs after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    changes = {"backbone": {"name": "bundled:efficientnet_lite0", "input_size": 32}, "data.source": "digits"}
    path = write(tmp_path, {**COMPARE, "seeds": 1}, **changes, **{"server.rounds": 1})
    heard: list[dict[str, Any]] = []
    found = fedgraft.compare(path, out=tmp_path / "c", jobs=2, on_event=lambda event: heard.append(dict(event)))
    assert states(found) == ["finished"] * 4
    assert [event for event in heard if event.get("what") == "progress"] == []
    (stored,) = FeatureStore().entries()
    assert stored.entry is not None
    assert stored.entry.shape[0] == 1797
    assert len(list((tmp_path / "cache" / "fedgraft" / "partitions").glob("*.npz"))) == 2  # one an alpha


@pytest.mark.slow
def test_a_killed_comparison_goes_on_and_leaves_no_process(whole: Comparison, tmp_path: Path) -> None:
    path = write(tmp_path, COMPARE)
    command = [sys.executable, "-m", "fedgraft", "compare", str(path), "--out", "c", "--jobs", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/8]"):
                workers = children_of(process.pid)
                process.send_signal(signal.SIGKILL)
                break
    assert len(workers) == 2
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [worker for worker in workers if Path(f"/proc/{worker}").exists()] == []
    before = stamps(read_comparison(tmp_path / "c"))
    assert 2 <= len(before) < 8
    found = fedgraft.compare(path, out=tmp_path / "c", resume=True, jobs=1)
    assert states(found) == ["finished"] * 8
    assert stamps(found).items() >= before.items()
    for run, same in zip(found.runs, whole.runs, strict=True):
        assert_same_bits(run.directory, same.directory)


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_run_only(tmp_path: Path) -> None:
    """As for want of memory: a strategy that ends its process in the third round, which no short run reaches."""
    path = write(tmp_path, with_odd_one(tmp_path, "Dies"))
    found = fedgraft.compare(path, out=tmp_path / "c", jobs=2)
    assert states(found) == ["finished", "failed"] * 2
    assert "was ended by SIGKILL; most likely there was too little memory: lower --jobs" in str(found.runs[1].error)


def test_the_command(tmp_path: Path) -> None:
    """In a process of its own, as a user calls it: plain lines, one JSON document, exit code 1 for a failed run."""
    path = write(tmp_path, {**with_odd_one(tmp_path, "Fails"), "seeds": 1})
    command = [sys.executable, "-m", "fedgraft", "compare", str(path), "--out", "c"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "small: 2 runs (2 contenders, 1 condition, 1 seed)"
    assert any(line.startswith("[1/2] fedavg, seed 1, central accuracy 0.") for line in lines)
    assert any(line.startswith("failed: Fails, seed 1: ") for line in lines)
    assert lines[-1].startswith("1 of 2 runs failed; the first says: ")
    assert "Accuracy on the central test part, 1 seed" in done.stdout
    assert done.stdout.splitlines()[-1] == "report: c/report.html"
    assert (tmp_path / "c" / "report.html").stat().st_size > 10_000
    again = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 1
    assert [run["state"] for run in json.loads(again.stdout)["runs"]] == ["finished", "failed"]


def test_nothing_else_is_left(whole: Comparison) -> None:
    assert whole.directory is not None
    assert sorted(os.listdir(whole.directory)) == ["comparison.json", "runs", "scenario.yaml"]  # noqa: PTH208
