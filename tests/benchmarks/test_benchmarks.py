"""The benchmark scripts still run, at tiny sizes, and what they measure with measures what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
MIB = 2**20

ALLOCATE = "b = bytearray({bytes}); import time; time.sleep(1.5)"
START_ANOTHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def run(script: str, tmp_path: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """Run a script to its end; return what it printed and its JSON."""
    report = tmp_path / "report.json"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(FOLDER.parent)}
    command = [sys.executable, str(FOLDER / script), *words, "--json", str(report)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(report.read_text())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_the_memory_of_a_process_that_another_one_starts_is_seen(tmp_path: Path) -> None:
    """The child's child takes 150 MiB and writes to every page; an interpreter has about 10."""
    from machine import watched

    code = START_ANOTHER.format(code=ALLOCATE.format(bytes=150 * MIB))
    with (tmp_path / "log").open("w") as log:
        status, memory = watched([sys.executable, "-c", code], os.environ, log)
    assert status == 0
    assert 150 * MIB < memory.peak_own_bytes <= memory.peak_bytes < 250 * MIB


def test_a_leak_has_a_slope_and_spikes_have_none() -> None:
    """1,000 bytes a round over a saw of a checkpoint every 10th round; without them the slope is 0."""
    from memory import slope

    rounds = np.arange(2000, dtype=np.float64)
    saw = 5e8 + 1e6 * (rounds % 10 == 0)
    assert slope(rounds, saw) == 0
    assert slope(rounds, saw + 1000 * rounds) == pytest.approx(1000)


def test_goals_are_met_on_the_right_side_of_their_limits() -> None:
    from goals import Goal

    assert Goal("ratio", 61, 60, at_least=True).met
    assert not Goal("ratio", 59, 60, at_least=True).met
    assert not Goal("seconds", 1.6, 1.5).met
    assert Goal("seconds", 1.6, 1.5, unit=" s").line().endswith("at most 1.5 s: missed")


def test_goals_apply_to_their_sizes_only() -> None:
    """10,000 clients have four goals: round, memory, floor, difference. 2.56e9 bytes of features + 1 GiB fit."""
    from goals import goals

    report: dict[str, Any] = {
        "clients": 10_000,
        "samples": 50,
        "rounds": 20,
        "dtype": "float32",
        "bfloat16": False,
        "seconds_per_round": {"inline": 1.2},
        "peak_memory_bytes": {"inline": 2_560_000_000 + 2**30},
        "feature_bytes": 2_560_000_000,
        "floor_seconds": 0.2,
        "largest_relative_difference": {"inline": 1e-7},
        "ratios": {"inline": {}},
    }
    found = goals(report)
    assert [(goal.value, goal.limit) for goal in found] == [
        (1e-7, 1e-5),
        (1.2, 1.5),
        (1.0, 1.5),
        (pytest.approx(6.0), 8.0),
    ]
    assert goals({**report, "clients": 500, "largest_relative_difference": {}}) == []


@pytest.mark.slow
def test_engines_do_the_same_work(tmp_path: Path) -> None:
    words = ["--clients", "3", "--samples", "12", "--features", "8", "--rounds", "2", "--repeats", "1"]
    text, report = run("simulation.py", tmp_path, *words, "--engines", "loop,inline", "--dtype", "float16")
    assert set(report["seconds_per_round"]) == set(report["peak_memory_bytes"]) == {"loop", "inline"}
    assert report["largest_relative_difference"]["inline"] < 1e-6
    assert report["floor_seconds"] > 0
    assert report["feature_bytes"] == 3 * 12 * 8 * 2
    assert "difference from the loop, 2 rounds" in text


@pytest.mark.slow
def test_ray_does_the_loop_s_work_too(tmp_path: Path) -> None:
    words = ["--clients", "4", "--samples", "12", "--features", "8", "--rounds", "2", "--repeats", "1"]
    _, report = run("simulation.py", tmp_path, *words, "--engines", "loop,ray")
    assert set(report["seconds_per_round"]) == set(report["peak_memory_bytes"]) == {"loop", "ray"}
    assert report["largest_relative_difference"]["ray"] < 1e-6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_of_every_host_is_seen(tmp_path: Path) -> None:
    """Of the run's own process and of both hosts, each with torch: 100 MB and more."""
    _, report = run("memory.py", tmp_path, "--rounds", "60", "--runtimes", "ray", "--set", "runtime.hosts=2")
    processes = report["runtimes"]["ray"]["processes"]
    assert sum(values["end_bytes"] > 1e8 for values in processes.values()) >= 4  # these three, and all together


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_an_artificial_leak_is_shown(tmp_path: Path) -> None:
    """100 kB a round over 150 rounds; the interpreter's own pools move by far less."""
    words = ["--rounds", "150", "--runtimes", "inline", "--leak", "100000"]
    text, report = run("memory.py", tmp_path, *words)
    slope = report["runtimes"]["inline"]["processes"]["all processes"]["bytes_per_round"]
    assert 70_000 < slope < 200_000
    assert "inline GROWS" in text


@pytest.mark.slow
def test_scale_tables(tmp_path: Path) -> None:
    words = ["--clients", "4", "--rounds", "2", "--sizes", "12", "--runtimes", ""]
    _, report = run("scale.py", tmp_path, *words)
    assert report["growth"][0]["feature_bytes"] == 4 * 20 * 1280 * 2
    assert report["forms"][0]["samples"] == 12
    assert report["forms"][0]["predicted_ratio"] > 1


@pytest.mark.slow
def test_forms_of_one_shape(tmp_path: Path) -> None:
    text, report = run("forms.py", tmp_path, "--samples", "20", "--features", "64", "--outputs", "3")
    assert [row["batch"] for row in report["shapes"]] == [10, 32]
    assert all(row["regret"] >= 1 for row in report["shapes"])
    assert "of 2 shapes" in text


@pytest.mark.slow
def test_the_ranking_benchmark_runs(tmp_path: Path) -> None:
    """On raw pixels of two sizes and a random network; its tau is SciPy's, its truth the accuracy of runs."""
    out, found = run("ranking.py", tmp_path, "--data", "digits", "--only", "3")
    assert found["num_candidates"] == {"all": 3, "learned": 0}
    assert {row["name"] for row in found["rows"]} == {"pixels", "timm:convnext_atto"}
    assert all(0 < row[key] <= 1 for row in found["rows"] for key in ("validated", "ridge", "trained"))
    assert "| pixels, 16 px | penultimate | 768 |" in out
    assert -1 <= found["agreement"]["all"]["ridge"]["log_me"]["tau"] <= 1


def test_few_shots_are_drawn_by_drawer(tmp_path: Path) -> None:
    """Of 3 alphabets of 4 characters, the third for background: 2 alphabets, 3 shots, 6 clients of 4 drawings each."""
    from few_shot import NUM_TEST, drawings

    images = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20, 1, 1) * np.ones((1, 1, 28, 28), np.uint8)
    alphabet, background = np.repeat([0, 1, 2], 4), np.repeat([False, False, True], 4)
    np.savez(tmp_path / "omniglot_28.npz", images=images, alphabet=alphabet, is_background=background)
    assert drawings(tmp_path, 5, 3, 0, tmp_path / "federation.npz") == (6, 8)
    with np.load(tmp_path / "federation.npz") as made:
        test, client, labels = made["is_test"], made["client"], made["labels"]
        character, drawer = np.divmod(made["images"][:, 0, 0].astype(int), 20)
    assert character.tolist() == labels.tolist()
    assert sorted(np.bincount(labels[test]).tolist()) == [NUM_TEST] * 8
    assert [sorted(labels[client == name] // 4) for name in np.unique(client[~test])] == [[0] * 4] * 3 + [[1] * 4] * 3
    assert all(len(np.unique(drawer[client == name])) == 1 for name in np.unique(client))
    assert not set(client[test]) & set(client[~test])


def test_the_first_round_of_a_run_is_left_out_of_the_median() -> None:
    from deployment import summary

    assert summary({"fedgraft": [[90.0, 4.0, 5.0], [80.0, 7.0]], "flower": [[1.0, 9.0]]}) == {
        "fedgraft": 5.0,
        "flower": 9.0,
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rounds_of_three_idle_sites(tmp_path: Path) -> None:
    printed, report = run("deployment.py", tmp_path, "--rounds", "2", "--repeats", "1")
    assert {name: [len(found) for found in runs] for name, runs in report["seconds"].items()} == {
        "flower": [2],
        "fedgraft": [2],
    }
    assert report["goal"]["value"] == report["median"]["fedgraft"] == report["seconds"]["fedgraft"][0][1]
    assert "fedgraft: a round of three idle sites" in printed
