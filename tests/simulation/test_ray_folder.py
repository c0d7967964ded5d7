"""Folders of Rays that were killed with their run are removed by the next one; those in use stay."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from fedgraft.simulation.ray_folder import LOCK, ray_folder, sweep

HOLD = """
import time
from fedgraft.simulation.ray_folder import ray_folder

with ray_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


def aged(folder: Path) -> Path:
    earlier = time.time() - 3600
    os.utime(folder, (earlier, earlier))
    return folder


def test_the_folder_goes_with_its_run() -> None:
    with ray_folder() as folder:
        (Path(folder) / "session" / "sockets").mkdir(parents=True)
    assert not Path(folder).exists()


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], text=True, stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": "/tmp"}
    )
    assert process.stdout is not None
    folder = aged(Path(process.stdout.readline().strip()))
    sweep(folder.parent)
    assert (folder / LOCK).exists()  # its run goes on
    process.kill()
    process.communicate()
    with ray_folder() as mine:
        assert not folder.exists()
        sweep(aged(Path(mine)).parent)
        assert Path(mine).exists()


def test_folders_of_others_and_new_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "fg-ray-unknown").mkdir()
    (tmp_path / "fg-ray-new").mkdir()
    (tmp_path / "fg-ray-new" / LOCK).touch()
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"fg-ray-unknown", "fg-ray-new"}
    aged(tmp_path / "fg-ray-new")
    aged(tmp_path / "fg-ray-unknown")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["fg-ray-unknown"]  # nothing says that it was a run's
