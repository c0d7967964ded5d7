"""Stages inside comparisons: what is shortened, what is refused, and clients alone have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_scenarios import SMALL, changed, small

from fedgraft.errors import ScenarioError
from fedgraft.survey import for_sums
from scenarios.loader import load_scenario
from scenarios.sweep.costs import rounds_of, shortened
from scenarios.sweep.plan import plan

STAGES = [{"name": "one", "strategy": "ridge"}, {"name": "two", "server": {"rounds": 9}}]


def written(folder: Path, compare: dict[str, Any] | None = None, **changes: Any) -> Path:
    path = folder / "staged.yaml"
    values = {**changed(SMALL, {"stages": STAGES, **changes}), **({"compare": compare} if compare else {})}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_a_short_run_has_short_stages(tmp_path: Path) -> None:
    scenario = load_scenario(written(tmp_path))
    assert rounds_of(scenario) == 10
    short = shortened(scenario, 4)
    assert [stage.server.rounds for stage in short.stages or ()] == [1, 4]
    assert rounds_of(short) == 5


def test_a_short_run_of_one_piece_is_not_lengthened() -> None:
    assert shortened(small(**{"server.rounds": 3}), 4).server.rounds == 3


def test_stages_are_not_tuned(tmp_path: Path) -> None:
    compare = {"grid": {"head.bias": [True, False]}, "tune": {"space": {"train.optimizer.learning_rate": [0.1, 0.2]}}}
    with pytest.raises(ScenarioError, match=r"compare\.tune: came beside the stages of .*; compare without tune"):
        plan(written(tmp_path, compare))


def test_a_client_alone_has_no_stages(tmp_path: Path) -> None:
    compare = {"grid": {"train.batch_size": [5, 10]}, "transfer": {"train.optimizer.learning_rate": [0.1]}}
    runs = plan(written(tmp_path, compare, **{"evaluation.per_client": True})).runs
    assert {run.planned.role: run.scenario.stages is None for run in runs} == {"contender": False, "alone": True}


def test_a_stage_without_rounds_is_refused(tmp_path: Path) -> None:
    stages = [{"name": "one", "strategy": "zero-shot"}, {"name": "two"}]
    with pytest.raises(ScenarioError, match=r"came zero-shot, which learns nothing in rounds; leave the stage out"):
        load_scenario(written(tmp_path, **{"stages": stages}))


def test_sums_of_features_need_no_stages(tmp_path: Path) -> None:
    assert for_sums(load_scenario(written(tmp_path))).stages is None
