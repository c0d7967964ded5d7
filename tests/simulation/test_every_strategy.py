"""Every strategy gives the same bits in every runtime and at any number of hosts, whoever lies, stays away or is late.

A run begins honestly and is attacked from round 2 on, so that it shows a strategy with and without liars; personal
strategies keep heads in hosts that another process has.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from every_strategy import NAMES, troubled
from test_runtimes_agree import assert_same_bits, in_flower, with_hosts

import fedgraft
from scenarios.schema import Scenario
from strategies.registry import STRATEGIES

# Ray leaves files and processes to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


IN_FLOWER = (
    "qfedavg", "scaffold", "multi-krum", "geometric-median", "ditto", "fedrep", "personal-ridge", "ridge", "fedcof",
    "fedpft",
)  # fmt: skip
"""One of each kind of exchange, reply and client state: Flower takes most of a minute to start for each. What it does
to others, `test_any_process_may_answer_for_a_host` does to all of them in one process."""


def each(few: tuple[str, ...]) -> list[object]:
    """Return all strategies, of which those beside a few are for the slow run."""
    return [name if name in few else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]


def on_ray(name: str) -> Scenario:
    return troubled(name, runtime={"name": "ray", "hosts": 2})


def assert_there_was_trouble(run: fedgraft.Run, name: str) -> None:
    """Somebody was missing, somebody lied, and somebody answered."""
    if STRATEGIES[name].most_rounds == 0 or name == "centralised":
        return
    rows = [row for row in run.metrics if row["group"] == "train"]
    assert sum(row["num_missing"] for row in rows) > 0
    assert len(run.summary["attackers"]) == 4
    assert min(row["num_clients"] for row in rows) > 0


@pytest.mark.parametrize("name", each(("scaffold", "multi-krum", "fedrep")))
def test_at_any_number_of_hosts(name: str, tmp_path: Path) -> None:
    one = with_hosts(troubled(name), 1, tmp_path / "1")
    assert_there_was_trouble(one, name)
    assert_same_bits(with_hosts(troubled(name), 3, tmp_path / "3"), one)


@pytest.mark.parametrize("name", each(("ditto",)))
def test_any_process_may_answer_for_a_host(name: str, tmp_path: Path) -> None:
    """As in Flower's simulation: what clients keep from round to round is on no process's mind."""
    one = with_hosts(troubled(name), 1, tmp_path / "1")
    assert_same_bits(with_hosts(troubled(name), 3, tmp_path / "3", resident=False), one)


@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("name", each(("ditto",)))
def test_on_ray(name: str, tmp_path: Path) -> None:
    inline = fedgraft.run(troubled(name), out=tmp_path / "inline")
    assert_same_bits(fedgraft.run(on_ray(name), out=tmp_path / "ray"), inline)


@pytest.mark.slow  # test_runtimes_agree.py has one for every run of the tests
@pytest.mark.parametrize("name", IN_FLOWER)
def test_in_flower(name: str, tmp_path: Path) -> None:
    inline = fedgraft.run(troubled(name), out=tmp_path / "inline")
    assert_same_bits(fedgraft.run(in_flower(troubled(name), 2), out=tmp_path / "flower"), inline)
