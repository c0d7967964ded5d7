"""What runs are made of beside rounds, in Flower's own simulation runtime: the numbers of `inline`, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_scenarios import small

import fedgraft

pytestmark = pytest.mark.slow  # Flower has to start

STAGES: list[dict[str, Any]] = [
    {"name": "sums", "strategy": {"name": "ridge", "penalty": 3.0}},
    {"name": "head", "pseudo_labels": {"threshold": 0.6}, "server": {"rounds": 2, "checkpoint_every": 2}},
]


def test_stages_of_aligned_features_with_pseudo_labels(tmp_path: Path) -> None:
    """Each message may come to another process there, so that nothing may hang on what a host did before."""
    changes: dict[str, Any] = {"shards": 2, "align": "coral", "data.unlabelled": 0.6, "stages": STAGES}
    in_flower = {"name": "flower", "hosts": 2, "cpus_per_host": 1}
    here = fedgraft.run(small(**changes), out=tmp_path / "here")
    there = fedgraft.run(small(**changes, runtime=in_flower), out=tmp_path / "there")
    for name in ("head.safetensors", "alignment.safetensors", "client_metrics.csv"):
        assert (here.directory / name).read_bytes() == (there.directory / name).read_bytes()
    assert [row for row in here.metrics if row["group"] == "pseudo_labels"] == [
        row for row in there.metrics if row["group"] == "pseudo_labels"
    ]
    assert [stage["rounds"] for stage in there.summary["stages"]] == [1, 2]
