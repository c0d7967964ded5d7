"""The Python way in gives what the command line gives, and tells what goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scenarios import small, small_file

import fedgraft
from fedgraft.errors import FedGraftError, ScenarioError, StoreError
from fedgraft.launch import num_hosts, with_shards

OVERRIDES = ["train.batch_size=5", "server.rounds=3", "data.partition.alpha=0.3"]


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_file(tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def finished(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> fedgraft.Run:
    return fedgraft.run(scenario, OVERRIDES, out=tmp_path_factory.mktemp("runs") / "run")


def test_command_line_gives_the_same(finished: fedgraft.Run, scenario: Path, tmp_path: Path) -> None:
    """Another process; its one JSON document is the summary, and `load` opens what it left."""
    settings = [word for override in OVERRIDES for word in ("--set", override)]
    command = [sys.executable, "-m", "fedgraft", "run", str(scenario), *settings, "--out", "run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    said = json.loads(done.stdout)
    assert done.stderr == ""
    assert said.pop("directory") == str(tmp_path / "run")
    loaded = fedgraft.load(tmp_path / "run")
    assert said == loaded.summary
    assert loaded.scenario == finished.scenario
    assert loaded.facts["name"] == "small"
    for name in ("head.safetensors", "client_metrics.csv", "scenario.yaml"):
        assert (loaded.directory / name).read_bytes() == (finished.directory / name).read_bytes()
    assert loaded.summary["central"] == finished.summary["central"]
    assert loaded.summary["bytes_down"] == finished.summary["bytes_down"]


def test_overrides_are_in_the_scenario_of_the_run(finished: fedgraft.Run) -> None:
    settings = finished.scenario
    assert (settings.train.batch_size, settings.server.rounds) == (5, 3)
    assert settings == small(**{"shards": 1, "train.batch_size": 5, "server.rounds": 3, "data.partition.alpha": 0.3})
    assert {row["round"] for row in finished.metrics} == {0, 1, 2, 3}


def test_the_scenario_of_a_run_runs_again(finished: fedgraft.Run, tmp_path: Path) -> None:
    """A file of the run directory, and the object: both give the same bits."""
    for number, again in enumerate((finished.directory / "scenario.yaml", finished.scenario)):
        run = fedgraft.run(again, out=tmp_path / str(number))
        np.testing.assert_array_equal(run.head["weight"], finished.head["weight"])


def test_events(scenario: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    run = fedgraft.run(scenario, OVERRIDES, out=tmp_path / "run", on_event=lambda event: events.append(dict(event)))
    kinds = [event["kind"] for event in events]
    assert [event["name"] for event in events if event["kind"] == "phase"][:2] == ["data", "features"]
    rounds = [event for event in events if event["kind"] == "round"]
    assert [(event["number"], event["of"]) for event in rounds] == [(1, 3), (2, 3), (3, 3)]
    central = {row["round"]: row["accuracy"] for row in run.metrics if row["group"] == "central"}
    assert [event["central/accuracy"] for event in rounds] == [central[1], central[2], central[3]]
    assert kinds.index("partition") < kinds.index("round")
    assert kinds[-1] == "finished"
    # What the server said stands in the run's own file too, for a command line in another process.
    written = [json.loads(line) for line in (run.directory / "events.jsonl").read_text().splitlines()]
    assert [event for event in written if event["kind"] == "round"] == rounds


@pytest.mark.parametrize(
    ("runtime", "shards", "expected"),
    [
        ({"name": "inline"}, None, (1, 1)),
        ({"name": "inline"}, 6, (6, 1)),
        ({"name": "flower", "hosts": 3}, None, (12, 3)),
        ({"name": "flower", "hosts": 1}, None, (1, 1)),
        ({"name": "flower", "hosts": 3}, 2, (2, 2)),
    ],
)
def test_shards_fit_the_hosts_unless_given(runtime: dict[str, Any], shards: int | None, expected: Any) -> None:
    resolved = with_shards(small(runtime=runtime, shards=shards))
    assert (resolved.shards, num_hosts(resolved)) == expected
    assert with_shards(small(runtime=runtime, shards=shards), recorded=7).shards == (shards or 7)


def test_shards_that_were_chosen_stand_in_the_run(finished: fedgraft.Run) -> None:
    assert finished.scenario.shards == 1
    hosts = finished.summary["hosts"]
    assert (hosts["number"], hosts["shards"]) == (1, 1)
    assert hosts["predicted_imbalance"] == hosts["measured_imbalance"] == 1


def test_notes_of_the_data_are_told(tmp_path: Path) -> None:
    """Dirichlet 0.1 leaves clients without some of the classes."""
    notes: list[str] = []

    def hear(event: Any) -> None:
        if event["kind"] == "note":
            notes.append(event["text"])

    fedgraft.run(small(**{"data.partition.alpha": 0.1, "server.rounds": 1}), out=tmp_path / "run", on_event=hear)
    assert any("without some of the 4 classes" in note for note in notes)


def test_a_listener_that_fails_stops_the_run(tmp_path: Path) -> None:
    """And is not taken for a fault of a client."""

    def hear(event: Any) -> None:
        if event["kind"] == "round":
            raise RuntimeError("the notebook's own fault")

    with pytest.raises(RuntimeError, match="the notebook's own fault"):
        fedgraft.run(small(), out=tmp_path / "run", on_event=hear)
    assert fedgraft.run(small(), out=tmp_path / "run", resume=True).finished


def test_default_folder(scenario: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = fedgraft.run(scenario, ["server.rounds=1"])
    second = fedgraft.run(scenario, ["server.rounds=1"])
    assert first.directory.parent == second.directory.parent == tmp_path / "runs"
    assert first.directory != second.directory
    assert first.directory.name.startswith("small-20")


def test_nothing_of_one_run_is_left_in_the_next(tmp_path: Path) -> None:
    """A host stays resident while its run lasts; other data under the same name are read anew."""
    file = tmp_path / "data.npz"
    changes = {
        "data.source": {"name": "arrays", "path": str(file)},
        "data.partition": {"name": "iid", "clients": 3},
        "server.rounds": 1,
    }
    random = np.random.default_rng(0)
    heads = []
    for number in range(2):
        features = random.standard_normal((60, 5)).astype(np.float32)
        np.savez(file, features=features, labels=np.arange(60) % 3)
        heads.append(fedgraft.run(small(**changes), out=tmp_path / str(number)).head["weight"])
    assert not np.array_equal(*heads)


def test_environment_is_the_caller_s(tmp_path: Path) -> None:
    """Torch's number of threads and the working folder are as they were."""
    import torch

    before = torch.get_num_threads(), Path.cwd(), torch.is_grad_enabled()
    fedgraft.run(small(**{"server.rounds": 1, "runtime": {"name": "inline", "threads": 2}}), out=tmp_path / "run")
    assert (torch.get_num_threads(), Path.cwd(), torch.is_grad_enabled()) == before


def test_refused(scenario: Path, finished: fedgraft.Run, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"train\.batch_sice.*did you mean 'batch_size'"):
        fedgraft.run(scenario, ["train.batch_sice=5"], out=tmp_path / "run")
    with pytest.raises(FedGraftError, match="overrides go with a scenario file"):
        fedgraft.run(small(), ["seed=2"], out=tmp_path / "run")
    with pytest.raises(ScenarioError, match="Flower has no strategy 'FedAdem'; did you mean 'FedAdam'"):
        fedgraft.run(scenario, ["strategy=flower:FedAdem"], out=tmp_path / "run")
    with pytest.raises(ScenarioError, match=r"server\.clients_per_round: came 99, but the federation has 9 clients"):
        fedgraft.run(scenario, ["server.clients_per_round=99"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(StoreError, match="already holds a run"):
        fedgraft.run(scenario, out=finished.directory)
    with pytest.raises(StoreError, match=r"holds no run \(it has no run\.json\)"):
        fedgraft.load(tmp_path)


def test_unfinished_run(finished: fedgraft.Run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished.directory, tmp_path / "run")
    for name in ("summary.json", "head.safetensors"):
        (tmp_path / "run" / name).unlink()
    run = fedgraft.load(tmp_path / "run")
    assert not run.finished
    assert len(run.metrics) == len(finished.metrics)
    for read in (lambda: run.summary, lambda: run.head):
        with pytest.raises(StoreError, match=r"go on with it: fedgraft run .* --resume"):
            read()


def test_rows_of_a_run_that_goes_on_can_be_read(finished: fedgraft.Run, tmp_path: Path) -> None:
    """A row may be half written when a notebook looks at it."""
    import shutil

    shutil.copytree(finished.directory, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"round": 4, "gro')
    assert fedgraft.load(tmp_path / "run").metrics == finished.metrics


def test_light_to_import() -> None:
    code = "import fedgraft, sys; print(fedgraft.__version__, 'torch' in sys.modules, 'flwr' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == [fedgraft.__version__, "False", "False"]
