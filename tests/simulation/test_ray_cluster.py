"""The `ray` runtime on a cluster that is not ours: joined, left running, and survived when a machine leaves it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_machines import two_machines
from small_scenarios import small
from test_ray import SLOW_ROUNDS, actors, assert_same_bits

import fedgraft

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,  # half a minute on a machine that does nothing else
]


@pytest.fixture
def cluster() -> Iterator[Any]:
    with two_machines() as cluster:
        yield cluster


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def machine_at_work(cluster: Any) -> Any:
    """Wait until a host works; return the machine whose scheduler started it."""
    deadline = time.monotonic() + 60
    schedulers = {node.all_processes["raylet"][0].process.pid: node for node in cluster.worker_nodes}
    while time.monotonic() < deadline:
        for pid in actors(".answer"):
            try:
                if parent(pid) in schedulers:
                    return schedulers[parent(pid)]
            except OSError:  # it has just ended
                continue
        time.sleep(0.001)
    raise TimeoutError


def joined(cluster: Any, **changes: Any) -> Any:
    return small(**changes, runtime={"name": "ray", "address": cluster.address})


def test_joins_a_cluster_and_leaves_it_running(cluster: Any, tmp_path: Path) -> None:
    """As many hosts as it has CPUs; a second run joins it as the first did."""
    changes = {"shards": 5, "server.rounds": 2}
    inline = fedgraft.run(small(**changes), out=tmp_path / "inline")
    places: set[int] = set()

    def look(event: Any) -> None:
        if event["kind"] == "round":
            places.update(parent(pid) for pid in actors())

    for name in ("first", "second"):
        ray = fedgraft.run(joined(cluster, **changes), out=tmp_path / name, on_event=look)
        assert ray.summary["hosts"]["number"] == 2
        assert_same_bits(ray, inline)
    assert places == {node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes}


@pytest.mark.parametrize("room", [True, False], ids=["another machine has room", "none has room"])
def test_a_machine_that_leaves_changes_no_bit(
    cluster: Any, room: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedgraft.simulation.ray_actors.PATIENCE_SECONDS", 30.0 if room else 3.0)
    if room:
        cluster.add_node(num_cpus=1)
    changes = {**SLOW_ROUNDS, "strategy": "scaffold"}
    inline = fedgraft.run(small(**changes), out=tmp_path / "inline")
    scenario = small(**changes, runtime={"name": "ray", "address": cluster.address, "hosts": 2})
    notes: list[str] = []
    left: list[Any] = []

    def leave() -> None:
        node = machine_at_work(cluster)
        cluster.remove_node(node, allow_graceful=False)
        left.append(node)

    leaving = threading.Thread(target=leave)

    def hear(event: Any) -> None:
        if event["kind"] == "round" and event["number"] == 2:
            leaving.start()
        if event["kind"] == "note":
            notes.append(event["text"])

    ray = fedgraft.run(scenario, out=tmp_path / "ray", on_event=hear)
    leaving.join()
    assert len(left) == 1
    assert_same_bits(ray, inline)
    assert [note for note in notes if "died; it is started again and asked again" in note]
    shared = [note for note in notes if "finds no CPUs of its own any more; it shares those of other hosts" in note]
    assert bool(shared) is not room
