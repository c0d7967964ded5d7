"""Contenders whose answer is their clients' own heads are never ranked by a global head that nobody has trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from small_scenarios import small
from written_runs import planned

import fedgraft
from fedgraft.commands.compare_results import tables
from scenarios.comparison.analysis import analyse
from scenarios.comparison.findings import Analysis, Row
from scenarios.comparison.records import Comparison
from scenarios.report.contenders import looks_of
from scenarios.report.results_tables import results_table
from scenarios.sweep.state import SweepState
from strategies.registry import STRATEGIES

SEEDS = [1, 2, 3]
MADE = {
    "fedavg": lambda seed: [0.1, 0.80 + seed / 100],
    "local-only": lambda seed: [0.1, 0.1],  # of a head that stays at its start
    "ditto": lambda seed: [0.1, 0.84 + seed / 200],
}
CLIENTS = {"fedavg": 0.7, "local-only": 0.9, "ditto": 0.8}


def made(folder: Path, metric: str | None) -> Comparison:
    """Return runs that also have scores of clients: local-only's own heads are the best there, with 90 %."""
    plan = planned(folder, MADE, SEEDS, metric=metric)
    for run in plan.runs:
        path = run.directory / "summary.json"
        summary = json.loads(path.read_text())
        part = "validation" if run.contender == "fedavg" else "personal"
        summary[part] = {"accuracy": CLIENTS[run.contender] + run.seed / 1000}
        path.write_text(json.dumps(summary))
    return plan


def row_of(found: Analysis, contender: str) -> Row:
    return next(row for row in found.conditions[0].rows if row.contender == contender)


def test_the_strategies_that_answer_with_own_heads() -> None:
    """FedPer's and FedRep's layers and local-only's head stay at their start; FedBABU trains under its layer."""
    own = {name for name, strategy in STRATEGIES.items() if strategy.answer == "own"}
    assert own == {"local-only", "fedper", "fedrep"}


def test_on_the_central_part_they_are_told_apart_and_not_ranked(tmp_path: Path) -> None:
    found = analyse(made(tmp_path, "central/accuracy"))
    alone = row_of(found, "local-only")
    assert (alone.value, alone.difference, alone.best_probability, alone.own_heads) == (None, None, None, True)
    assert "central/accuracy" not in alone.metrics
    condition = found.conditions[0]
    assert [curve.contender for curve in condition.curves["central/accuracy"]] == ["fedavg", "ditto"]
    assert found.verdict.best == ("ditto",) or "local-only" not in found.verdict.best
    assert not any("local-only" in sentence for sentence in found.verdict.sentences)
    assert (  # mean of 90.1, 90.2 and 90.3; 4.303 * 0.1 / sqrt(3) = 0.248
        "local-only answers with each client's own head and has no global one to be judged, so it is not ranked; on "
        "the clients' validation parts its heads reach 90.2 ± 0.2 %, and compare.metric: clients/accuracy ranks all "
        "contenders there."
    ) in condition.notes
    shown = results_table(found, condition, looks_of(found))
    last = shown.rows[-1]
    assert (last.cells[0].text, last.cells[0].note, last.failed) == ("local-only", "own heads", False)
    (table,) = tables(found)
    assert list(table.columns[1].cells)[1] == "own heads, not judged"


def test_without_a_metric_all_are_judged_where_all_can_be(tmp_path: Path) -> None:
    found = analyse(made(tmp_path, None))
    assert found.metric.name == "clients/accuracy"
    assert row_of(found, "local-only").value is not None
    assert found.verdict.best[0] == "local-only"


def test_the_live_view_and_the_verdict_name_the_same_best(tmp_path: Path) -> None:
    own = frozenset({"local-only"})
    for metric in ("central/accuracy", None):
        plan = made(tmp_path / str(metric).replace("/", "-"), metric)
        state = SweepState(plan, jobs=1, own_answers=own)
        best = state.best()
        assert best is not None
        assert best[0] == analyse(plan).verdict.best[0]
        assert state.metric == analyse(plan).metric.name


def test_runs_of_before_are_judged_by_their_strategy(tmp_path: Path) -> None:
    """A run says by what it is judged; one that does not is judged as its strategy says."""
    run: Any = fedgraft.run(small(**{"strategy": "local-only", "server.rounds": 1}), out=tmp_path / "run")
    assert run.summary["answer"] == "own"
    text = (tmp_path / "run" / "summary.txt").read_text()
    assert "own heads" in text
    assert "central test" not in text
    assert fedgraft.run(small(**{"server.rounds": 1}), out=tmp_path / "other").summary["answer"] == "global"
