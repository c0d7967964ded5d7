"""How Flower's programs are started."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from fedgraft.deployment.processes import flower

PROGRAM = """
import sys, threading, time

def fails():
    threading.Thread(target=time.sleep, args=(600,)).start()
    raise ValueError("a bundle that is not what it says")

def swallows():
    threading.Thread(target=time.sleep, args=(600,)).start()

def ends():
    sys.exit(int(sys.argv[1]))
"""


def test_a_program_whose_main_thread_has_ended_ends_whatever_its_other_threads_do(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(flower("program", "fails"), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "ValueError: a bundle that is not what it says" in done.stderr
    assert subprocess.run(flower("program", "swallows"), env=environment, timeout=60).returncode == 1
    assert subprocess.run(flower("program", "ends", "7"), env=environment, timeout=60).returncode == 7
