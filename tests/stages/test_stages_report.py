"""The report of runs that are made of stages: each stage with its cost and what it reached."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import yaml
from small_scenarios import SMALL, changed, small

from fedgraft.conduct import run_resolved
from scenarios.comparison.analysis import analyse
from scenarios.comparison.gathered import comparison_of_runs
from scenarios.loader import load_scenario
from scenarios.report.compose import compose
from scenarios.report.exported_tables import write_tables

STAGES = [{"name": "sums", "strategy": "ridge"}, {"name": "head", "server": {"rounds": 3}}]


def test_each_stage_has_its_row(tmp_path: Path) -> None:
    for seed in (1, 2):
        path = tmp_path / f"staged-{seed}.yaml"
        path.write_text(yaml.safe_dump(changed(SMALL, {"stages": STAGES, "seed": seed}), sort_keys=False))
        run_resolved(load_scenario(path), tmp_path / f"run-{seed}", pictures=False, keep_data=True)
    comparison = comparison_of_runs([tmp_path / "run-1", tmp_path / "run-2"])
    analysis = analyse(comparison)
    topics = compose(comparison, analysis).parts[0].topics
    table = next(topic for topic in topics if topic.title == "Stages").table
    assert table is not None
    shown = [[cell.text for cell in row.cells] for row in table.rows]
    assert [row[1:4] for row in shown] == [["1. sums", "ridge", "1"], ["2. head", "fedavg", "3"]]

    rows = [  # by hand, from what the runs wrote round by round
        [json.loads(line) for line in (tmp_path / f"run-{seed}" / "metrics.jsonl").read_text().splitlines()]
        for seed in (1, 2)
    ]
    last = [{row["stage"]: row["accuracy"] for row in run if row["group"] == "central"} for run in rows]
    write_tables(comparison, analysis, tmp_path)
    with (tmp_path / "stages.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    for record in records:
        name = record["name"]
        assert float(record["central/accuracy"]) == np.mean([run[name] for run in last])
        spent = [row["bytes_down"] + row["bytes_up"] for run in rows for row in run if _costs(row, name)]
        assert float(record["bytes"]) == sum(spent) / 2


def _costs(row: dict[str, object], stage: str) -> bool:
    return row["stage"] == stage and row["group"] == "train"


def test_runs_of_one_piece_have_no_such_table(tmp_path: Path) -> None:
    run_resolved(small(), tmp_path / "run", pictures=False, keep_data=True)
    comparison = comparison_of_runs([tmp_path / "run"])
    assert "Stages" not in [topic.title for topic in compose(comparison, analyse(comparison)).parts[0].topics]
