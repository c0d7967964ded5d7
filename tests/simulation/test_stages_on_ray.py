"""Stages with real Ray: the numbers of `inline`, with state that clients keep and blocks of features alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_scenarios import small_file

from fedgraft.conduct import run_resolved
from scenarios.loader import load_scenario

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,  # Ray has to start
]

STAGES: list[dict[str, Any]] = [
    {"name": "start", "strategy": "ridge"},
    {"name": "drift", "strategy": "scaffold", "server": {"rounds": 3}},
    {"name": "few", "server": {"rounds": 2, "clients_per_round": 4}, "train": {"optimizer": {"learning_rate": 0.03}}},
]


def test_stages_on_ray_are_those_in_one_process_bit_by_bit(tmp_path: Path) -> None:
    path = small_file(tmp_path, shards=4, stages=STAGES)
    runs = [
        run_resolved(load_scenario(path, [f"runtime={runtime}"]), tmp_path / name, pictures=False)
        for name, runtime in (("inline", "inline"), ("ray", "{name: ray, hosts: 2}"))
    ]
    heads = [(run.directory / "head.safetensors").read_bytes() for run in runs]
    assert heads[0] == heads[1]
    unequal = ("seconds", "bytes_down", "bytes_up")
    rows = [[{key: row[key] for key in row if key not in unequal} for row in run.metrics] for run in runs]
    assert rows[0] == rows[1]
    assert [stage["rounds"] for stage in runs[1].summary["stages"]] == [1, 3, 2]
