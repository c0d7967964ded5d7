"""Protocol numbers, the digest of code, and shards."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedgraft.errors import WireError
from fedgraft.wire.protocol import PACKAGES, check_number, package_directory
from fedgraft.wire.requests import BackboneRequest, CrossValidateRequest, TrainReply, TrainRequest
from fedgraft.wire.shards import host_of_shard, imbalance, shard_of_client


@pytest.mark.parametrize("came", [2, 0, "1", None, True, 1.0])
def test_an_unknown_number_is_refused(came: object) -> None:
    check_number("schema", 1, 1, "the checkpoint")
    with pytest.raises(WireError) as caught:
        check_number("schema", came, 1, "the checkpoint")
    assert str(caught.value) == (
        f"the checkpoint has schema {came!r}, this release of FedGraft knows 1; "
        "install the same release on both sides (fedgraft --version tells)"
    )


def digest_in(folder: Path) -> str:
    """Return the code digest of a process that finds the packages in `folder`."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from fedgraft.wire.protocol import code_digest
print(code_digest())
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_code_digest_notices_every_change_of_code(tmp_path: Path) -> None:
    """A copy of the code has the same digest; a changed, an added and a renamed module have others."""
    for package in PACKAGES:
        root = package_directory(package)
        for path in root.rglob("*.py"):
            copy = tmp_path / package / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    first = digest_in(tmp_path)
    assert len(first) == 64
    (tmp_path / "clients" / "note.txt").write_text("not code")
    assert digest_in(tmp_path) == first
    halves = tmp_path / "clients" / "halves.py"
    text = halves.read_text()
    halves.write_text(text + "\n# changed\n")
    changed = digest_in(tmp_path)
    halves.write_text(text)
    assert digest_in(tmp_path) == first
    (tmp_path / "clients" / "added.py").write_text("")
    added = digest_in(tmp_path)
    assert len({first, changed, added}) == 3


def test_a_missing_package_is_named() -> None:
    with pytest.raises(WireError, match=r"package 'no_such_package' can't be found; reinstall FedGraft"):
        package_directory("no_such_package")


@given(st.integers(0, 300), st.integers(1, 40))
def test_shards_are_runs_of_nearly_equal_length(num_clients: int, num_shards: int) -> None:
    shards = shard_of_client(num_clients, num_shards)
    assert shards.shape == (num_clients,)
    assert (np.diff(shards) >= 0).all()
    counts = np.bincount(shards, minlength=num_shards)
    assert len(counts) == num_shards
    assert counts.max() - counts.min() <= 1


def test_shards_by_hand() -> None:
    assert shard_of_client(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert shard_of_client(0, 3).tolist() == []


def test_shards_are_placed_by_hand() -> None:
    """5 to host 0; 3 and 3 to host 1 (6); 2 to host 0 (7); 2 to host 1 (8); 1 to host 0 (8)."""
    assert host_of_shard(np.array([5.0, 3, 3, 2, 2, 1]), 2).tolist() == [0, 1, 1, 0, 1, 0]
    assert host_of_shard(np.array([1.0, 1, 1]), 2).tolist() == [0, 1, 0]
    assert host_of_shard(np.zeros(3), 3).tolist() == [0, 1, 2]  # shards without samples leave no host without a shard
    assert host_of_shard(np.array([2.0]), 3).tolist() == [0]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=7), st.integers(1, 3))
def test_placement_is_near_the_best(costs: list[int], num_hosts: int) -> None:
    """Against every placement there is; Graham's bound of 4/3 - 1/(3 m)."""
    hosts = host_of_shard(np.array(costs, dtype=float), num_hosts)
    assert set(hosts.tolist()) == set(range(min(num_hosts, len(costs))))
    busiest = np.bincount(hosts, costs).max()
    every = itertools.product(range(num_hosts), repeat=len(costs))
    best = min(np.bincount(placed, costs).max() for placed in every)
    assert busiest <= best * (4 / 3 - 1 / (3 * num_hosts)) + 1e-9


def test_imbalance() -> None:
    assert imbalance(np.array([3.0, 1.0])) == 1.5
    assert imbalance(np.array([0.0, 0.0])) == imbalance(np.zeros(0)) == 1.0


def test_bodies_refuse_what_makes_no_sense() -> None:
    good = {"run_id": "r", "weights_digest": "d", "shard": 0}
    with pytest.raises(ValidationError, match="round_number"):
        TrainRequest(**good, round_number=0)
    with pytest.raises(ValidationError, match="reply"):
        TrainRequest(**good, round_number=1, reply="mean")
    with pytest.raises(ValidationError, match="finite"):
        TrainReply(round_number=1, shard=0, num_clients=1, scalars={"weight": float("nan")}, seconds=1.0)
    with pytest.raises(ValidationError, match="lambdas"):
        CrossValidateRequest(**good, lambdas=(0.0,))
    with pytest.raises(ValidationError, match="feature_dim"):
        BackboneRequest(run_id="r", weights_digest="d", feature_dim=0)
