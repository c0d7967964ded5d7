"""A ranking whose clients are spoken for by Ray's actors."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_scenarios import small_file

import fedgraft

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,  # Ray has to start
]


def test_ray_gives_the_same_scores(tmp_path: Path) -> None:
    """Three shards, behind one process and behind two: sums are added shard by shard, so to the last bit."""
    path = small_file(tmp_path, shards=3)
    here = fedgraft.rank(path, out=tmp_path / "here").best
    there = fedgraft.rank(path, ["runtime={name: ray, hosts: 2}"], out=tmp_path / "there").best
    for score in ("validated", "log_me", "h_score", "penalty", "standard_error"):
        assert getattr(here, score) == getattr(there, score), score
