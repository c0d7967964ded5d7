"""The `ray` runtime, with real Ray: the numbers of `inline`, also when hosts die; nothing said, nothing left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from interrupts import listen_to_interrupts
from process_watch import Watch
from small_scenarios import relative_difference, small, small_file

import fedgraft
from fedgraft.errors import FedGraftError, LaunchError
from fedgraft.simulation.flower_identity import claim_identity
from fedgraft.simulation.ray_grid import RayGrid, _shared
from fedgraft.simulation.settings import RayRuntime
from fedgraft.wire.records import array_record, pack
from fedgraft.wire.requests import DescribeRequest

# Ray leaves files and processes to the garbage collector; that its processes end is tested below.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

UNEQUAL = ("seconds", "bytes_down", "bytes_up")
# Client after client and many steps: a round takes long enough that a kill falls into it.
SLOW_ROUNDS: dict[str, Any] = {"train.form": "loop", "train.local_epochs": 40, "server.rounds": 4, "shards": 4}

SMALL_IMAGES: dict[str, Any] = {
    "backbone": {"name": "timm:test_resnet", "weights": "random", "input_size": 32},
    "data.source": {"name": "synthetic", "kind": "images", "num_samples": 120, "num_classes": 4},
}


def rows_of(run: fedgraft.Run) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in UNEQUAL} for row in run.metrics]


def assert_same_bits(run: fedgraft.Run, other: fedgraft.Run) -> None:
    assert rows_of(run) == rows_of(other)
    for name in ("client_metrics.csv", "head.safetensors"):
        assert (run.directory / name).read_bytes() == (other.directory / name).read_bytes()


def on_ray(**changes: Any) -> Any:
    return small(**{"runtime": {"name": "ray", "hosts": changes.pop("hosts", 2)}, **changes})


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    ("changes", "hosts"),
    [
        ({"server.clients_per_round": 4}, 2),
        ({"strategy": {"name": "flower:FedAdam", "parameters": {"eta": 0.05}}}, 3),
        pytest.param({"head": {"name": "mlp", "hidden": [8]}}, 1, marks=pytest.mark.slow),
        pytest.param({"strategy": "qfedavg", "init": "ncm"}, 2, marks=pytest.mark.slow),
        ({"strategy": "scaffold", "server.clients_per_round": 5}, 2),
        pytest.param({"unfreeze.cut": "layer3", "strategy": "fedavgm", **SMALL_IMAGES}, 2, marks=pytest.mark.slow),
        ({"strategy": {"name": "ridge", "relative_penalties": [1e-3, 1e-1, 10.0]}, "server.rounds": 1}, 2),
    ],
    ids=["sums", "stack", "mlp", "losses", "variates", "blocks", "two exchanges of statistics"],
)
def test_the_bits_of_inline(tmp_path: Path, changes: dict[str, Any], hosts: int) -> None:
    changes = {"shards": 5, "server.rounds": 3, **changes}
    inline = fedgraft.run(small(**changes), out=tmp_path / "inline")
    ray = fedgraft.run(on_ray(hosts=hosts, **changes), out=tmp_path / "ray")
    assert_same_bits(ray, inline)
    assert (ray.summary["hosts"]["number"], len(ray.summary["hosts"]["busy_seconds"])) == (hosts, hosts)


@pytest.mark.usefixtures("shared_ray")
def test_shards_left_open_are_four_a_host_and_change_only_rounding(tmp_path: Path) -> None:
    notes: list[str] = []
    ray = fedgraft.run(
        on_ray(), out=tmp_path / "ray", on_event=lambda e: notes.append(e["text"]) if e["kind"] == "note" else None
    )
    assert ray.scenario.shards == 8
    assert ray.summary["hosts"]["shards"] == 8
    assert "this process is connected to a Ray already; the run uses it and leaves it running" in notes
    inline = fedgraft.run(small(), out=tmp_path / "inline")
    assert relative_difference(ray.head["weight"], inline.head["weight"]) < 1e-6


def actors(doing: str = "") -> list[int]:
    """Return the processes of hosts of this user's Rays, by the title that Ray gives them."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = entry.read_bytes().rstrip(b"\0 ").decode()
        except OSError:
            continue
        if title == f"ray::Host{doing}" or (not doing and title.startswith("ray::Host.")):
            found.append(int(entry.parent.name))
    return found


def kill_one_at_work(killed: list[int]) -> None:
    deadline = time.monotonic() + 20
    while not killed and time.monotonic() < deadline:
        for pid in actors(".answer")[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        time.sleep(0.001)


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("strategy", [pytest.param("fedavg", marks=pytest.mark.slow), "scaffold"])
def test_a_host_killed_at_work_changes_no_bit(tmp_path: Path, strategy: str) -> None:
    """SCAFFOLD's control variates live in the host that dies."""
    changes = {**SLOW_ROUNDS, "strategy": strategy}
    inline = fedgraft.run(small(**changes), out=tmp_path / "inline")
    killed: list[int] = []
    notes: list[str] = []
    killer = threading.Thread(target=kill_one_at_work, args=(killed,))

    def hear(event: Any) -> None:
        if event["kind"] == "round" and event["number"] == 2:
            killer.start()
        if event["kind"] == "note":
            notes.append(event["text"])

    ray = fedgraft.run(on_ray(**changes), out=tmp_path / "ray", on_event=hear)
    killer.join()
    assert len(killed) == 1
    assert next(note for note in notes if "died" in note).endswith("died; it is started again and asked again")
    assert_same_bits(ray, inline)
    assert "died (1 in a row)" in (ray.directory / "ray.log").read_text()


@pytest.mark.usefixtures("shared_ray")
def test_features_are_mapped_from_the_store_by_every_host(tmp_path: Path) -> None:
    """The same file in the hosts' memory as in this process; no copy goes through Ray."""
    maps: list[str] = []

    def look(event: Any) -> None:
        if event["kind"] == "round" and event["number"] == 1:
            maps.extend(Path(f"/proc/{pid}/maps").read_text() for pid in [*actors(), os.getpid()])

    images = {
        "backbone": {"name": "timm:mobilenetv3_small_050", "weights": "random", "input_size": 32},
        "data.source": {"name": "synthetic", "kind": "images", "image_size": 32, "num_samples": 120, "num_classes": 4},
    }
    fedgraft.run(on_ray(**images, **{"server.rounds": 2}), out=tmp_path / "run", on_event=look)
    store = os.environ["XDG_CACHE_HOME"] + "/fedgraft/features"
    mapped = [{line.split()[-1] for line in text.splitlines() if store in line} for text in maps]
    assert len(mapped) == 3
    assert mapped[0] == mapped[1] == mapped[2] != set()


@pytest.fixture
def grid(shared_ray: None, tmp_path: Path) -> Iterator[RayGrid]:
    claim_identity(1)
    grid = RayGrid("trouble_app:app", 2, {}, RayRuntime(), {}, tmp_path / "ray.log")
    try:
        grid.wait()
        yield grid
    finally:
        grid.close()


def ask(grid: RayGrid, what: str, nodes: tuple[int, ...] = (2, 3)) -> list[Message]:
    request = pack(DescribeRequest(run_id="r"))
    messages = [Message(request, dst_node_id=node, message_type=f"query.{what}") for node in nodes]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=60)}
    return [replies[node] for node in nodes]


def test_troubles_of_a_host_are_told(grid: RayGrid, tmp_path: Path) -> None:
    first = [dict(reply.content["place"]) for reply in ask(grid, "place")]
    assert [place["part"] for place in first] == [0, 1]
    assert first[0]["pid"] != first[1]["pid"] != os.getpid()
    assert ask(grid, "refuse", (3,))[0].error.reason == "the request names no clients"
    reason = ask(grid, "stumble", (2,))[0].error.reason
    assert reason.startswith("KeyError: 'weights' (a bug of FedGraft; the traceback stands in ")
    assert "in stumble" in (tmp_path / "ray.log").read_text()
    reason = ask(grid, "die", (3,))[0].error.reason
    assert reason.startswith(
        "it died 3 times in a row without an answer; most likely it ran out of memory: lower runtime"
    )
    again = dict(ask(grid, "place", (2,))[0].content["place"])
    assert again == first[0]  # the other host was left alone


@pytest.mark.usefixtures("shared_ray")
def test_what_messages_share_is_put_into_the_store_once() -> None:
    claim_identity(1)
    head = array_record({"weight": np.zeros((2, 3))})
    messages = []
    for node in (2, 3, 4):
        record = pack(DescribeRequest(run_id="r"), {"clients": {"index": np.arange(node)}})
        record["head"] = head
        messages.append(Message(record, dst_node_id=node, message_type="train"))
    assert set(_shared(messages)) == {id(head)}


def command(scenario: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "fedgraft", "run", str(scenario), "--runtime", "ray", "--out", str(out), *more]


def until(condition: Callable[[], bool], process: subprocess.Popen[str], watch: Watch) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        watch.look()
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    watch.look()


def rounds_done(out: Path) -> int:
    path = out / "metrics.jsonl"
    return sum(json.loads(line)["group"] == "train" for line in path.read_text().splitlines()) if path.exists() else 0


def unwanted_processes(watch: Watch) -> list[str]:
    """Return Ray's dashboard, autoscaler and forwarder of logs; a new version of Ray may have to be told anew."""
    commands = []
    for pid, _ in watch.seen:
        with contextlib.suppress(OSError):
            commands.append(Path(f"/proc/{pid}/cmdline").read_bytes().decode())
    assert any("gcs_server" in command for command in commands)
    return [command for command in commands if "dashboard.py" in command or "monitor.py" in command]


def decoyed(folder: Path) -> dict[str, str]:
    """Put another project's package `clients` into a working folder; return the environment to start from there."""
    (folder / "clients").mkdir(parents=True)
    (folder / "clients" / "__init__.py").write_text("raise RuntimeError('the decoy was imported')")
    repository = str(Path(fedgraft.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": repository, "PYTHONSAFEPATH": "1", "RAY_ADDRESS": "ray://192.0.2.1:10001"}


def test_a_run_of_its_own_is_silent_and_leaves_nothing(tmp_path: Path) -> None:
    """The command line, from a folder with a decoy; a host is killed on the way."""
    scenario = small_file(tmp_path, **SLOW_ROUNDS)
    inline = fedgraft.run(scenario, out=tmp_path / "inline")
    out, environment = tmp_path / "ray", decoyed(tmp_path / "elsewhere")
    process = subprocess.Popen(
        command(scenario, out, "--quiet"), cwd=tmp_path / "elsewhere", env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    watch = Watch(process.pid)
    until(lambda: rounds_done(out) >= 1, process, watch)
    ours = [pid for pid in actors() if pid in {seen for seen, _ in watch.seen}]
    assert unwanted_processes(watch) == []
    os.kill(ours[0], signal.SIGKILL)
    while process.poll() is None:
        watch.look()
        time.sleep(0.05)
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    watch.assert_all_ended()
    assert_same_bits(fedgraft.load(out), inline)
    assert len(json.loads((out / "summary.json").read_text())["hosts"]["busy_seconds"]) >= 1


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)],
    ids=["Ctrl-C", "SIGKILL"],
)
def test_stopped_nothing_is_left_and_the_run_goes_on_inline(tmp_path: Path, number: signal.Signals) -> None:
    changes = {**SLOW_ROUNDS, "server.rounds": 6}
    scenario, out = small_file(tmp_path, **changes), tmp_path / "run"
    process = subprocess.Popen(
        command(scenario, out), text=True, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=listen_to_interrupts,
    )  # fmt: skip
    watch = Watch(process.pid)
    until(lambda: rounds_done(out) >= 3, process, watch)
    # A terminal sends Ctrl-C to all processes of the group, Ray's too.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
    errors = process.communicate(timeout=60)[1]
    # After a SIGKILL Ray's own agents look for their raylet, then for its server, before they end too.
    watch.assert_all_ended(within_seconds=0 if number == signal.SIGINT else 120)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert "Traceback" not in errors
    inline = fedgraft.run(scenario, out=tmp_path / "inline")
    assert_same_bits(fedgraft.run(scenario, out=out, resume=True), inline)


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    """In a process of its own: this one may be connected to a Ray."""
    scenario = small_file(tmp_path, runtime={"name": "ray", "address": "127.0.0.1:1"})
    done = subprocess.run(
        [*command(scenario, tmp_path / "run")[:5], "--quiet"], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: no Ray answers at runtime.address '127.0.0.1:1' (Connection refused); start one"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("shared_ray")
def test_hosts_that_find_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fedgraft.simulation.ray_actors.START_SECONDS", 3.0)
    scenario = small(runtime={"name": "ray", "hosts": 2, "cpus_per_host": 3})
    with pytest.raises(
        LaunchError, match=r"[12] of 2 hosts found no place .* wants 3 CPUs .* Ray has 4 CPUs .* lower runtime"
    ):
        fedgraft.run(scenario, out=tmp_path / "run")


@pytest.mark.usefixtures("shared_ray")
def test_the_servers_timeout_ends_the_run(tmp_path: Path) -> None:
    before = set(actors())
    with pytest.raises(FedGraftError, match=r"were not answered within 0\.05 s"):
        fedgraft.run(on_ray(**SLOW_ROUNDS, **{"server.timeout_seconds": 0.05}), out=tmp_path / "run")
    deadline = time.monotonic() + 10
    while set(actors()) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(actors()) - before
