"""A sweep whose runs a Ray cluster makes: the bits of a sweep on one machine, and nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray_machines import two_machines
from small_scenarios import SMALL, changed
from test_sweep_runs import ODD, assert_same_bits, states

import fedgraft
from fedgraft.errors import LaunchError, ScenarioError
from scenarios.comparison.records import read_comparison

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,  # a minute on a machine that does nothing else
]
COMPARE = {"grid": {"strategy": ["fedavg", "scaffold", "ridge"]}, "seeds": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_machines() as cluster:
        yield cluster


def write(folder: Path, compare: dict[str, Any], **changes: Any) -> Path:
    path = folder / "many.yaml"
    path.write_text(yaml.safe_dump({**changed(SMALL, changes), "compare": compare}, sort_keys=False))
    return path


def test_the_cluster_gives_the_same_bits(cluster: Any, tmp_path: Path) -> None:
    path = write(tmp_path, COMPARE)
    here = fedgraft.compare(path, out=tmp_path / "here", jobs=1)
    heard: list[dict[str, Any]] = []
    there = fedgraft.compare(
        path, out=tmp_path / "there", ray=cluster.address, on_event=lambda event: heard.append(dict(event))
    )
    assert states(there) == ["finished"] * 6
    assert [event["jobs"] for event in heard if event["kind"] == "jobs"] == [2]  # its free cores
    rounds = [event for event in heard if event.get("what") == "round"]
    assert len(rounds) == 2 * (4 + 4 + 1)
    for run, same in zip(there.runs, here.runs, strict=True):
        assert_same_bits(run.directory, same.directory)
    assert not (tmp_path / "there" / "workers.log").exists()


def test_a_run_that_fails_or_dies_does_not_stop_the_others(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    odd = [{"file": str(tmp_path / "odd.py"), "name": name} for name in ("Fails", "Dies")]
    path = write(tmp_path, {"grid": {"strategy": ["fedavg", *odd]}, "seeds": 1})
    found = fedgraft.compare(path, out=tmp_path / "c", ray=cluster.address)
    assert states(found) == ["finished", "failed", "failed"]
    assert "out of luck" in str(found.runs[1].error)
    assert "was ended by SIGKILL" in str(found.runs[2].error)


def test_a_killed_sweep_leaves_nothing_running_and_goes_on(cluster: Any, tmp_path: Path) -> None:
    path = write(tmp_path, COMPARE, **{"server.rounds": 40})
    command = [sys.executable, "-m", "fedgraft", "compare", str(path), "--out", "c", "--ray", cluster.address]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[2/6]"):
                process.send_signal(signal.SIGKILL)
                break
    deadline = time.monotonic() + 30
    while workers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert workers() == []
    before = [run.id for run in read_comparison(tmp_path / "c").runs if run.state == "finished"]
    assert 2 <= len(before) < 6
    found = fedgraft.compare(path, out=tmp_path / "c", resume=True, ray=cluster.address)
    assert states(found) == ["finished"] * 6
    here = fedgraft.compare(path, out=tmp_path / "here", jobs=1)
    for run, same in zip(found.runs, here.runs, strict=True):
        assert_same_bits(run.directory, same.directory)


def test_a_machine_that_leaves_costs_no_run(cluster: Any, tmp_path: Path) -> None:
    """Another machine goes on with the run that the lost one was at."""
    path = write(tmp_path, COMPARE, **{"server.rounds": 40})
    here = fedgraft.compare(path, out=tmp_path / "here", jobs=1)
    extra = cluster.add_node(num_cpus=1)
    at_work: dict[str, int] = {}
    moved: list[str] = []

    def hear(event: Any) -> None:
        if event.get("what") == "moved":
            moved.append(event["why"])
        if event.get("what") == "round" and extra in cluster.worker_nodes:
            at_work.setdefault(event["id"], event["number"])
            if len(at_work) == 3:  # one on each machine
                cluster.remove_node(extra, allow_graceful=False)

    there = fedgraft.compare(path, out=tmp_path / "there", ray=cluster.address, on_event=hear)
    assert states(there) == ["finished"] * 6
    for run, same in zip(there.runs, here.runs, strict=True):
        assert_same_bits(run.directory, same.directory)
    assert len(moved) == 1
    assert moved[0].startswith("its actor on the Ray cluster ended")


def workers() -> list[str]:
    """Return the sweep's worker processes on this machine."""
    found = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if line.endswith("-m scenarios.sweep.worker")]


def test_what_can_not_be_is_one_clear_text(tmp_path: Path) -> None:
    path = write(tmp_path, COMPARE)
    with pytest.raises(LaunchError, match=r"no Ray answers at runtime\.address '127\.0\.0\.1:9'"):
        fedgraft.compare(path, out=tmp_path / "c", ray="127.0.0.1:9")
    with pytest.raises(ScenarioError, match=r"came ray; a Ray cluster makes whole runs.*set runtime=inline"):
        fedgraft.compare(path, ["runtime=ray"], out=tmp_path / "c", ray="127.0.0.1:9")
