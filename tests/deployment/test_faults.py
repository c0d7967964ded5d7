"""Faults between real processes: what is lost is asked for again, who is missing is named, and the rest goes on.

Where nobody is left out, the numbers are those of an undisturbed run in one process.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_fleet import (
    Seen,
    changed,
    descendants,
    followed,
    greatest_difference,
    head_of,
    in_one_process,
    pause,
    run,
    running_fleet,
    until_round,
)
from required_tools import required_tool

from fedgraft.deployed_runs import resume, submit
from fedgraft.deployment.kits import ServerFolder
from fedgraft.deployment.processes import answers
from fedgraft.errors import FedGraftError
from fedgraft.rehearsal import Fleet
from fedgraft.runs import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 4
SERVER: dict[str, Any] = {"rounds": ROUNDS, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def running(cache_of_the_session: None) -> Iterator[Fleet]:
    with running_fleet(server=SERVER) as found:
        yield found


@pytest.fixture(scope="module")
def undisturbed(running: Fleet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Return the head of the same run in one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return head_of(in_one_process(running, folder / "data", folder / "run"))


def num_clients(done: Run) -> list[int]:
    """Return how many sites each round counted."""
    return [row["num_clients"] for row in done.metrics if row["group"] == "train"]


@contextlib.contextmanager
def stopped(*processes: int) -> Iterator[None]:
    """Have processes stand still for a while."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def server_apps(running: Fleet) -> list[int]:
    """Return the processes that conduct runs at the server."""
    below = descendants(running.supervisor.process_ids()["superexec"])
    return [pid for pid in below if b"flwr-serverapp" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def back(running: Fleet, name: str, before: int) -> bool:
    """Tell whether a process that was ended has been started again."""
    return running.supervisor.process_ids().get(name, before) != before


def test_killed_processes_of_a_site_come_back_with_their_clients_state(running: Fleet, tmp_path: Path) -> None:
    """The host, which holds control variates, and the messenger are killed after a round of SCAFFOLD."""
    scaffold: dict[str, Any] = {"strategy": "scaffold", "server": {"rounds": 3, "resend_seconds": 20.0}}
    killed: list[int] = []

    def kill(seen: Seen) -> Iterator[None]:
        yield from until_round(seen, 1)
        ids = running.supervisor.process_ids()
        for name in ("clinic-2 host", "clinic-3 messenger"):
            killed.append(ids[name])
            os.kill(ids[name], signal.SIGKILL)

    done, _ = run(running, tmp_path / "deployed", kill, **scaffold)
    assert len(killed) == 2
    assert not set(killed) & set(running.supervisor.process_ids().values())
    expected = in_one_process(running, tmp_path / "data", tmp_path / "inline", **scaffold)
    assert greatest_difference(head_of(done), head_of(expected)) <= 1e-6
    assert num_clients(done) == [3, 3, 3]


def test_a_killed_supernode_comes_back_and_nothing_is_lost(
    running: Fleet, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """The SuperLink lets it in again when it has missed two heartbeats, a minute later."""
    name = "clinic-2 supernode"
    before = running.supervisor.process_ids()[name]

    def kill(seen: Seen) -> Iterator[None]:
        yield from until_round(seen, 1)
        os.kill(before, signal.SIGKILL)

    done, notes = run(running, tmp_path / "run", kill)
    assert back(running, name, before)
    assert num_clients(done) == [3] * ROUNDS
    assert greatest_difference(head_of(done), undisturbed) <= 1e-6
    text = "clinic-2 did not answer 'train': it can't be reached; it is asked again when it is back"
    assert text in notes


def test_a_site_that_is_silent_for_a_while_is_waited_for(
    running: Fleet, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Its line is cut for 20 s: the SuperNode neither hears nor says anything."""

    def cut(seen: Seen) -> Iterator[None]:
        yield from until_round(seen, 1)
        with stopped(running.supervisor.process_ids()["clinic-1 supernode"]):
            yield from pause(20)

    done, _ = run(running, tmp_path / "run", cut)
    assert num_clients(done) == [3] * ROUNDS
    assert greatest_difference(head_of(done), undisturbed) <= 1e-6


def test_a_slow_site_misses_the_deadline_and_is_back_in_the_next_round(running: Fleet, tmp_path: Path) -> None:
    def slow(seen: Seen) -> Iterator[None]:
        yield from until_round(seen, 1)
        with stopped(running.supervisor.process_ids()["clinic-3 host"]):
            yield from until_round(seen, 2)

    done, notes = run(running, tmp_path / "run", slow, server={**SERVER, "timeout_seconds": 25.0})
    assert num_clients(done) == [3, 2, 3, 3]
    late = [note for note in notes if note.startswith("'train' goes on without clinic-3: no answer within")]
    assert len(late) == 1
    assert late[0].endswith("(server.timeout_seconds)")


def test_a_message_that_a_quick_restart_loses_silently_is_sent_again(
    running: Fleet, undisturbed: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """As `systemctl restart` does: the SuperNode is back before the server looks, and has forgotten what it was given.

    So that it is quick enough on any machine, the server's process stands still meanwhile.
    """
    name = "clinic-2 supernode"

    def restart(seen: Seen) -> Iterator[None]:
        yield from until_round(seen, 1)
        ids = running.supervisor.process_ids()
        with stopped(ids["clinic-2 host"]):
            yield from pause(8)  # the message has come as far as the messenger
            with stopped(*server_apps(running)):
                os.kill(ids[name], signal.SIGTERM)
                while not back(running, name, ids[name]):
                    yield
                yield from pause(8)  # it has said that it is back

    done, notes = run(running, tmp_path / "run", restart, server={**SERVER, "resend_seconds": 25.0})
    assert num_clients(done) == [3] * ROUNDS
    assert greatest_difference(head_of(done), undisturbed) <= 1e-6
    assert any(note.startswith("nothing from clinic-2 for") and note.endswith("it is asked again") for note in notes)


def test_two_runs_at_once(running: Fleet, undisturbed: dict[str, np.ndarray], tmp_path: Path) -> None:
    """A second one, with another number of rounds, is submitted from beside while the first goes on."""
    other = {"server": {"rounds": 2}}
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        second = beside.submit(submit, changed(running, other), running.server, out=tmp_path / "second")
        first, _ = run(running, tmp_path / "first")
        while not second.done():
            running.turn()
    assert greatest_difference(head_of(first), undisturbed) <= 1e-6
    expected = in_one_process(running, tmp_path / "data", tmp_path / "inline", **other)
    assert greatest_difference(head_of(second.result()), head_of(expected)) <= 1e-6
    assert num_clients(first) == [3] * ROUNDS
    assert num_clients(second.result()) == [3] * 2


@pytest.fixture
def small_disk(running: Fleet, tmp_path: Path) -> Iterator[ServerFolder]:
    """Yield the server's kit with its runs on a disk of 4 MB."""
    mount, umount = required_tool("mount"), required_tool("umount")
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"needs a file system of its own, which only root can mount: {made.stderr.strip()}")
    settings = running.server.settings.model_copy(update={"runs": str(disk)})
    yield ServerFolder(running.server.folder, settings)
    subprocess.run([umount, str(disk)], check=True)


def test_a_full_disk_at_the_server_stops_the_run_and_it_goes_on_when_there_is_room(
    running: Fleet, undisturbed: dict[str, np.ndarray], small_disk: ServerFolder, tmp_path: Path
) -> None:
    ballast = Path(small_disk.settings.runs) / "ballast"
    seen_notes: list[str] = []

    def fill(seen: Seen) -> Iterator[None]:
        yield from until_round(seen, 1)
        seen_notes.extend(seen.notes)
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()

    def start(**options: Any) -> Run:
        return submit(running.scenario, small_disk, **options)

    with pytest.raises(FedGraftError, match=r"(?s)No space left on device; free space.*submit --resume [0-9a-f]{8}"):
        followed(running, fill, start, tmp_path / "run")
    ballast.unlink()
    (identifier,) = {note.split()[3].rstrip(";") for note in seen_notes if note.startswith("this is run ")}

    def go_on(**options: Any) -> Run:
        return resume(identifier, small_disk, **options)

    done, notes = followed(running, None, go_on, tmp_path / "run")
    assert any(note.startswith("resumed after round") for note in notes)
    assert num_clients(done) == [3] * ROUNDS
    assert greatest_difference(head_of(done), undisturbed) <= 1e-6
    assert answers("127.0.0.1", running.server.settings.superlink_port)
