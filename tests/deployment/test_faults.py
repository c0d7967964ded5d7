"""Faults between real processes: what was killed comes back, and the numbers stay those of an undisturbed run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from local_fleet import greatest_difference, head_of, in_one_process, run, running_fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_killed_processes_of_a_site_come_back_with_their_clients_state(tmp_path: Path) -> None:
    """The host, which holds control variates, and the messenger are killed after a round of SCAFFOLD."""
    with running_fleet(strategy="scaffold", server={"rounds": 3, "resend_seconds": 20.0}) as running:
        killed: list[int] = []

        def kill(event: Any) -> None:
            if event["kind"] == "round" and event["number"] == 1:
                ids = running.supervisor.process_ids()
                for name in ("clinic-2 host", "clinic-3 messenger"):
                    killed.append(ids[name])
                    os.kill(ids[name], signal.SIGKILL)

        done, _ = run(running, tmp_path / "deployed", kill)
        assert len(killed) == 2
        assert not set(killed) & set(running.supervisor.process_ids().values())
        expected = in_one_process(running, tmp_path / "data", tmp_path / "inline")
        assert greatest_difference(head_of(done), head_of(expected)) <= 1e-6
        rows = [row for row in done.metrics if row["group"] == "train"]
        assert [row["num_clients"] for row in rows] == [3, 3, 3]
