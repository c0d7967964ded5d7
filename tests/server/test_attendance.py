"""Who comes to a round, against counts and times derived by hand from the settings."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_scenarios import small

import fedgraft
from fedgraft.errors import DataError
from fedgraft.randomness import key, orders
from server.attendance import Attendance, Present, read_trace
from server.availability_settings import AvailabilitySettings

NAMES = [f"client-{number:03}" for number in range(200)]
SAMPLES = np.full(200, 5)


def attendance(seed: int = 1, **settings: Any) -> Attendance:
    return Attendance(AvailabilitySettings(**settings), seed, NAMES, SAMPLES)


def rounds(chosen: Attendance, cohort_size: int, num_rounds: int) -> list[Present]:
    return [chosen.present(number, cohort_size) for number in range(1, num_rounds + 1)]


def test_without_a_block_the_cohort_is_the_first_of_the_round_s_order() -> None:
    everybody = Attendance(None, 3, NAMES, SAMPLES).present(7, 20)
    expected = np.sort(orders(key(3, "cohort", 7), 200)[0][:20])
    np.testing.assert_array_equal(everybody.clients, expected)
    np.testing.assert_array_equal(attendance(seed=3).present(7, 20).clients, expected)


def test_clients_drop_out_with_the_probability_that_was_set() -> None:
    """50 rounds of 200 clients: of 10,000 draws 30 % are missing, with a standard deviation of 0.46 %."""
    found = rounds(attendance(dropout=0.3), 200, 50)
    assert sum(one.num_missing for one in found) / 10_000 == pytest.approx(0.3, abs=0.02)
    assert all(len(one.clients) + one.num_missing == one.num_asked == 200 for one in found)
    absent = np.array([~np.isin(np.arange(200), one.clients) for one in found])
    assert absent.any(axis=0).all()  # not always the same ones
    again = rounds(attendance(dropout=0.3), 200, 50)
    assert all(np.array_equal(one.clients, other.clients) for one, other in zip(found, again, strict=True))
    assert not np.array_equal(found[0].clients, attendance(seed=2, dropout=0.3).present(1, 200).clients)


def test_over_selection_asks_more_and_takes_the_first() -> None:
    """50 % more than 20 are 30; the 20 fastest count, and the round lasts as long as the slowest of them."""
    chosen = attendance(over_selection=0.5, seconds=2.0, seconds_spread=1.0)
    found = chosen.present(1, 20)
    assert (found.num_asked, len(found.clients), found.num_late) == (30, 20, 10)
    everybody = attendance(seconds=2.0, seconds_spread=1.0)
    slowest = [everybody.present(1, count).seconds for count in (20, 30)]
    assert found.seconds < slowest[0] <= slowest[1]
    assert len(attendance(over_selection=0.5, dropout=0.2).present(1, 20).clients) == 20


def test_seconds_are_log_normal() -> None:
    """With a deadline at the median half of the clients are late; at `e^spread` medians 15.9 % are."""
    for deadline, share in ((2.0, 0.5), (2.0 * np.exp(0.7), 0.1587)):
        found = rounds(attendance(seconds=2.0, seconds_spread=0.7, deadline_seconds=deadline), 200, 20)
        assert sum(one.num_late for one in found) / 4_000 == pytest.approx(share, abs=0.03)
        assert all(one.seconds == deadline for one in found)


def test_stragglers_are_the_same_in_every_round() -> None:
    """A tenth of the clients takes 50 seconds: without a deadline they are waited for, with one they never count."""
    waiting = rounds(attendance(straggler_fraction=0.1, straggler_factor=50.0), 200, 5)
    assert [one.seconds for one in waiting] == [50.0] * 5
    strict = rounds(attendance(straggler_fraction=0.1, straggler_factor=50.0, deadline_seconds=10.0), 200, 5)
    assert [(one.num_late, one.seconds) for one in strict] == [(20, 10.0)] * 5
    assert all(np.array_equal(one.clients, strict[0].clients) for one in strict)


def test_late_clients_join_and_stay() -> None:
    """60 of 200 come in rounds 2 to 5: 15 in each, give or take."""
    found = rounds(attendance(late_fraction=0.3, last_joins_in=5), 200, 6)
    sizes = [len(one.clients) for one in found]
    assert sizes[0] == 140
    assert sizes[4:] == [200, 200]
    assert all(3 <= more <= 30 for more in np.diff(sizes[:5]))
    for one, later in itertools.pairwise(found):
        assert np.isin(one.clients, later.clients).all()


def test_too_few_is_said_and_waiting_asks_again() -> None:
    """Ten are asked and half drop out: eight or more of ten answer in 5.5 % of the tries (binomial)."""
    skipping = attendance(dropout=0.5, minimum_clients=8)
    short = [skipping.shortage(one) for one in rounds(skipping, 10, 100)]
    assert 80 <= sum(text is not None for text in short) <= 100
    text = next(text for text in short if text)
    assert text.endswith("clients with training samples answered in time, availability.minimum_clients is 8")
    waiting = attendance(dropout=0.5, minimum_clients=8, too_few="wait")
    found = rounds(waiting, 10, 5)
    assert all(waiting.shortage(one) is None and len(one.clients) >= 8 for one in found)
    assert all(one.seconds == one.num_asked / 10 for one in found)  # a second for each try


def test_a_trace_says_who_is_there(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("round,client,seconds\n1,client-001,3\n1,client-002,\n3,client-004,7.5\n")
    chosen = attendance(trace=str(path))
    found = [(one.clients.tolist(), one.seconds) for one in rounds(chosen, 200, 4)]
    assert found == [([1, 2], 3.0), ([], 0.0), ([4], 7.5), ([1, 2], 3.0)]  # from the beginning again


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("round,name\n1,a\n", r"has the columns round, name; expected round, client and, if wanted, seconds"),
        ("round,client\n", "has no rows; nobody would ever be there"),
        ("round,client\n1,client-001\n1,nobody\n", r"line 3: the federation has no client 'nobody'; it has client-000"),
        ("round,client\nfirst,client-001\n", r"line 2: came round 'first', seconds None; expected numbers"),
        ("round,client\n0,client-001\n", "line 2: came round 0, seconds nan; rounds count from 1"),
        ("round,client,seconds\n1,client-001,-3\n", "line 2: came round 1, seconds -3; rounds count from 1"),
    ],
)
def test_traces_that_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=expected):
        read_trace(path, NAMES)


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv can't be read"):
        read_trace(tmp_path / "none.csv", NAMES)


def test_a_trace_and_late_clients_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="is above 0 beside a trace, which says who is there; keep one of the two"):
        AvailabilitySettings(trace="trace.csv", late_fraction=0.1)


BLOCK = {"dropout": 0.5, "minimum_clients": 5, "seconds_spread": 0.5}


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_rounds_are_skipped_and_a_resumed_run_skips_the_same(strategy: str, tmp_path: Path) -> None:
    scenario = small(**{"availability": BLOCK, "server.rounds": 8, "strategy": strategy})
    whole = fedgraft.run(scenario, out=tmp_path / "whole")
    rows = [row for row in whole.metrics if row["group"] == "train"]
    skipped = [row["round"] for row in rows if row["num_clients"] == 0]
    assert 0 < len(skipped) < 8
    assert all(
        row["num_asked"] == 9 and row["num_missing"] + row["num_clients"] in (9, row["num_missing"]) for row in rows
    )
    notes = (whole.directory / "events.jsonl").read_text()
    assert f"round {skipped[0]} is skipped: " in notes
    central = {row["round"]: row["loss"] for row in whole.metrics if row["group"] == "central"}
    for number in skipped:
        assert central[number] == central[number - 1]
    stopped = fedgraft.run(scenario, out=tmp_path / "stopped")
    checkpoints = sorted((stopped.directory / "checkpoints").iterdir())
    checkpoints[-1].unlink()
    (stopped.directory / "summary.json").unlink()
    resumed = fedgraft.run(scenario, out=tmp_path / "stopped", resume=True)
    for file in ("head.safetensors", "client_metrics.csv"):
        assert (resumed.directory / file).read_bytes() == (whole.directory / file).read_bytes()


def test_a_robust_strategy_skips_rounds_with_too_few(tmp_path: Path) -> None:
    """Krum with one liar needs five clients; without the block that would be an error."""
    run = fedgraft.run(
        small(**{"availability.dropout": 0.5, "server.rounds": 6, "strategy": "krum"}), out=tmp_path / "run"
    )
    counts = [row["num_clients"] for row in run.metrics if row["group"] == "train"]
    assert 0 in counts
    assert any(count >= 5 for count in counts)
    assert "krum with num_malicious 1 needs 2 x 1 + 3 = 5" in (run.directory / "events.jsonl").read_text()


@pytest.mark.parametrize("strategy", ["ncm", "fedcof"])
def test_contributions_are_those_of_clients_that_came(strategy: str, tmp_path: Path) -> None:
    """A head without one of those that came is the head of a round to which only the others come."""
    block = {"evaluation.contribution": True, "strategy": strategy}
    path = tmp_path / "trace.csv"
    path.write_text("round,client\n" + "".join(f"1,client-000{number}\n" for number in (1, 4, 6, 7)))
    run = fedgraft.run(small(**{"availability.trace": str(path), **block}), out=tmp_path / "run")
    rows = [line.split(",") for line in (run.directory / "contribution.csv").read_text().splitlines()]
    assert [row[0] for row in rows[1:]] == [f"client-000{number}" for number in (1, 4, 6, 7)]
    path.write_text("round,client\n" + "".join(f"1,client-000{number}\n" for number in (1, 6, 7)))
    others = fedgraft.run(small(**{"availability.trace": str(path), "strategy": strategy}), out=tmp_path / "others")
    central = [row["accuracy"] for row in others.metrics if row["group"] == "central"]
    assert float(rows[2][3]) == pytest.approx(central[-1])


@pytest.mark.parametrize("blocks", [{"strategy": "ridge"}, {"init": "ridge"}])
def test_closed_forms_sum_up_those_who_come(blocks: dict[str, Any], tmp_path: Path) -> None:
    few = fedgraft.run(small(**{"availability.dropout": 0.3, **blocks}), out=tmp_path / "few")
    assert 0 < next(row for row in few.metrics if row["group"] == "train")["num_clients"] < 9
    none = small(**{"availability.minimum_clients": 50, **blocks})
    alone = fedgraft.run(none, out=tmp_path / "none")
    losses = [row["loss"] for row in alone.metrics if row["group"] == "central"]
    assert losses[0] == pytest.approx(np.log(4))
    assert set(losses) == {losses[0]}
