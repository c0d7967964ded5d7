"""Clusters of clients that Ray's actors speak for."""

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


def test_ray_gives_the_same_clusters(tmp_path: Path) -> None:
    """Three shards, behind one process and behind two: sums are added shard by shard, so to the last bit."""
    path = small_file(tmp_path, shards=3)
    here = fedgraft.cluster(path, clusters=3, out=tmp_path / "here")
    there = fedgraft.cluster(path, ["runtime={name: ray, hosts: 2}"], clusters=3, out=tmp_path / "there")
    assert np.array_equal(here.centres, there.centres)
    assert np.array_equal(here.client_counts, there.client_counts)
    assert here.inertias == there.inertias
