"""How far a sweep is said to be: time left."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_runs import planned

from scenarios.comparison.records import Forecast
from scenarios.sweep.state import SweepState


def test_a_run_under_way_is_forecast_by_its_own_pace(tmp_path: Path) -> None:
    """Two of four runs go on, 10 s expected of each; one had 5 of 20 rounds in 30 s, so that it needs 90 s more.

    The other is at its second round and counts by what was expected: 10 - 4 = 6 s. Two are to come: 20 s. Two side by
    side: (90 + 6 + 20) / 2 = 58 s.
    """
    plan = planned(tmp_path, {"fedavg": lambda seed: [0.1, 0.2]}, [1, 2, 3, 4])
    for run in plan.runs:
        object.__setattr__(run, "forecast", Forecast(seconds=10.0))
        (run.directory / "summary.json").unlink()
    state = SweepState(plan, jobs=2)
    first, second = plan.runs[0].id, plan.runs[1].id
    assert state.seconds_left(0.0) == pytest.approx(20.0)
    state.hear({"kind": "run", "what": "started", "id": first}, 0.0)
    state.hear({"kind": "run", "what": "started", "id": second}, 26.0)
    state.hear({"kind": "run", "what": "round", "id": first, "number": 5, "of": 20}, 30.0)
    state.hear({"kind": "run", "what": "round", "id": second, "number": 2, "of": 20}, 30.0)
    assert state.seconds_left(30.0) == pytest.approx(58.0)
