"""The runtimes give the same bits for the same shards and one thread."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from every_strategy import troubled
from flwr.app import Context, Message, RecordDict
from small_scenarios import changed, small, small_file

import fedgraft
from clients.app import app as client_app
from clients.host import forget_hosts
from fedgraft.errors import FedGraftError
from fedgraft.simulation.flower_identity import claim_identity
from fedgraft.simulation.inline import InlineGrid
from fedgraft.submission import RunFacts, Submission
from scenarios.schema import Scenario
from server.app import app as server_app

UNEQUAL = ("seconds", "bytes_down", "bytes_up")
REPOSITORY = Path(fedgraft.__file__).parent.parent
IMAGES: dict[str, Any] = {
    "backbone": {"name": "timm:mobilenetv3_small_050", "weights": "random", "input_size": 32},
    "data.source": {"name": "synthetic", "kind": "images", "image_size": 32, "num_samples": 120, "num_classes": 4},
}


def rows_of(run: fedgraft.Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in UNEQUAL} for row in run.metrics]


def assert_same_bits(run: fedgraft.Run, other: fedgraft.Run) -> None:
    assert rows_of(run) == rows_of(other)
    for name in ("client_metrics.csv", "head.safetensors"):
        assert (run.directory / name).read_bytes() == (other.directory / name).read_bytes()
    for group in ("central", "validation", "central_confusion", "num_clients", "num_train"):
        assert run.summary[group] == other.summary[group]


def in_flower(scenario: Scenario, hosts: int) -> Scenario:
    runtime = {"name": "flower", "hosts": hosts, "cpus_per_host": 1}
    return Scenario.model_validate_json(
        json.dumps(changed(json.loads(scenario.model_dump_json()), {"runtime": runtime}))
    )


def test_inline_and_flower(tmp_path: Path) -> None:
    """Own heads, clients that lie, stay away and join late; what is told of the run comes through as well."""
    scenario = troubled("ditto")
    inline = fedgraft.run(scenario, out=tmp_path / "inline")
    events: list[dict[str, Any]] = []
    flower = fedgraft.run(
        in_flower(scenario, 2), out=tmp_path / "flower", on_event=lambda event: events.append(dict(event))
    )
    assert_same_bits(flower, inline)
    assert [event["number"] for event in events if event["kind"] == "round"] == [1, 2, 3]
    assert events[-1]["kind"] == "finished"


class Forgetful(InlineGrid):
    """Has each message answered as by a new process: what Flower's simulation may do, where any actor takes any."""

    def _answer(self, message: Message) -> Message:
        forget_hosts()
        return super()._answer(message)


def with_hosts(scenario: Scenario, num_hosts: int, out: Path, resident: bool = True) -> fedgraft.Run:
    """Run a scenario with several hosts, all in this process; if they are not resident, without any memory."""
    forget_hosts()
    claim_identity(1)
    facts = RunFacts(run_id="run-00000001", directory=str(out), num_hosts=num_hosts, resident=resident)
    config: dict[str, Any] = {"scenario": Submission(scenario.model_dump_json(), facts).to_run_config()}
    hosts = {
        2 + number: Context(1, 2 + number, {"partition-id": number, "num-partitions": num_hosts}, RecordDict(), config)
        for number in range(num_hosts)
    }
    grid = InlineGrid if resident else Forgetful
    server_app(grid(client_app, hosts), Context(1, 1, {}, RecordDict(), config))
    forget_hosts()
    return fedgraft.load(out)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"train.form": "dual"},
        {"train.form": "primal"},
        {"train.form": "loop"},
        {"head": {"name": "mlp", "hidden": [8]}, "server.clients_per_round": 5},
        {"strategy": {"name": "flower:FedAdam", "parameters": {"eta": 0.05}}, "server.clients_per_round": 5},
        {"strategy": {"name": "flower:FedProx", "parameters": {"proximal_mu": 0.1}}},
        {"align": "coral"},
    ],
    ids=["chosen", "dual", "primal", "loop", "mlp", "stack", "proximal", "aligned"],
)
def test_hosts_are_only_addresses(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Three shards at one, two and five hosts: what is trained beside a client must not change its bits."""
    scenario = small(**{"shards": 3, "server.rounds": 3, **changes})
    one = with_hosts(scenario, 1, tmp_path / "1")
    for num_hosts in (2, 5):
        assert_same_bits(with_hosts(scenario, num_hosts, tmp_path / str(num_hosts)), one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "hosts"),
    [
        ({"shards": 3, "strategy": {"name": "flower:FedAdam", "parameters": {"eta": 0.05}}}, 2),
        ({"shards": 3, **IMAGES}, 3),
        ({"shards": 3}, 1),
        ({"shards": 1, "head": {"name": "mlp", "hidden": [8]}}, 1),
    ],
    ids=["stateful strategy", "images", "one host", "mlp"],
)
def test_inline_and_flower_in_other_ways(tmp_path: Path, changes: dict[str, Any], hosts: int) -> None:
    scenario = small(**changes)
    inline = fedgraft.run(scenario, out=tmp_path / "inline")
    assert_same_bits(fedgraft.run(in_flower(scenario, hosts), out=tmp_path / "flower"), inline)


@pytest.mark.slow
def test_begun_in_one_runtime_and_resumed_in_the_other(tmp_path: Path) -> None:
    scenario = small(shards=2)
    inline = fedgraft.run(scenario, out=tmp_path / "inline")
    shutil.copytree(inline.directory, tmp_path / "resumed")
    (tmp_path / "resumed" / "summary.json").unlink()
    (tmp_path / "resumed" / "checkpoints" / "round-000004.safetensors").unlink()
    assert_same_bits(fedgraft.run(in_flower(scenario, 2), out=tmp_path / "resumed", resume=True), inline)


@pytest.mark.slow
def test_a_fault_in_flower_is_told_in_its_own_words(tmp_path: Path) -> None:
    """Bulyan wants 4 f + 3 clients; that is found out in the server's process."""
    strategy = {"name": "flower:Bulyan", "parameters": {"num_malicious_nodes": 5}}
    with pytest.raises(FedGraftError, match=r"Bulyan could not combine the updates of \d+ clients"):
        fedgraft.run(in_flower(small(strategy=strategy), 1), out=tmp_path / "run")


@pytest.fixture
def flower_home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Flower home of our own, and an end to the SuperLink that `flwr run` leaves running."""
    home = tmp_path / "flower home"
    home.mkdir()
    switches = {
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as in an activated environment
    yield {**os.environ, **switches, "PATH": path}
    for identifier in processes_with(f"FLWR_HOME={home}"):
        os.kill(identifier, signal.SIGKILL)


def processes_with(variable: str) -> list[int]:
    """Return the processes that have a variable in their environment: those that this test started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [identifier for identifier in found if identifier != os.getpid()]


@pytest.mark.slow
def test_plain_flwr_run(tmp_path: Path, flower_home: dict[str, str]) -> None:
    """`flwr run` from an empty folder, with a copy of the repository and its own pyproject.toml."""
    scenario = small(shards=2)
    inline = fedgraft.run(scenario, out=tmp_path / "inline")
    checkout = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "runs", "docs", "benchmarks", "*.egg-info")
    shutil.copytree(REPOSITORY, checkout, ignore=ignored)
    small_file(checkout / "scenarios", shards=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    flwr = Path(sys.executable).with_name("flwr")
    command = [str(flwr), "run", str(checkout), "--run-config", "scenario='small'", "--stream"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=empty, env=flower_home, timeout=280, check=False)
    summaries: list[Path] = []
    deadline = time.monotonic() + 60
    while not summaries and time.monotonic() < deadline:
        summaries = [path for path in tmp_path.rglob("summary.json") if path.parent != inline.directory]
        time.sleep(0.5)
    assert summaries, done.stdout[-5000:] + done.stderr[-2000:]
    assert_same_bits(fedgraft.load(summaries[0].parent), inline)
