"""Classes that arrive task by task at clients that Ray's actors speak for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_scenarios import small_file

import fedgraft

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,  # Ray has to start
]


def test_ray_gives_the_same_heads_and_matrix(tmp_path: Path) -> None:
    """Three shards, behind one process and behind two: to the last bit."""
    path = small_file(tmp_path, shards=3, **{"data.tasks": 2, "server.rounds": 2})
    here = fedgraft.run(path, out=tmp_path / "here")
    there = fedgraft.run(path, ["runtime={name: ray, hosts: 2}"], out=tmp_path / "there")
    for name, value in here.head.items():
        assert np.array_equal(there.head[name], value), name
    assert there.summary["tasks"] == here.summary["tasks"]
