"""Run directories with numbers made up for a test, as far as an analysis reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scenarios.comparison.records import Comparison, PlannedRun

LABELS = ["cat", "dog"]


def write_run(
    directory: Path,
    strategy: str,
    course: Sequence[float],
    *,
    round_bytes: int = 1000,
    round_seconds: float = 2.0,
    before: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    client_rows: str = "",
) -> None:
    """Write a finished run whose central accuracy after rounds 0, 1, ... is `course`."""
    directory.mkdir(parents=True)
    rows: list[dict[str, Any]] = [before] if before else []
    for number, value in enumerate(course):
        rows.append({"round": number, "group": "central", "num_samples": 10, "accuracy": value, "loss": 1 - value})
        if number:
            spent = {"bytes_down": round_bytes // 2, "bytes_up": round_bytes - round_bytes // 2}
            rows.append({"round": number, "group": "train", **spent, "seconds": round_seconds})
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    header = "round,client,part,num_samples,steps,loss,score,loss_before,loss_after\n"
    (directory / "client_metrics.csv").write_text(header + client_rows)
    facts = {
        "schema": 1,
        "strategy": strategy,
        "task": "classes",
        "metric": "accuracy",
        "label_names": LABELS,
        "central": {"accuracy": course[-1], "loss": 1 - course[-1]},
        "validation": {},
        "bytes_down": 600 * len(course),
        "bytes_up": 400 * len(course),
        "seconds": {"train": 3.0, "evaluate": 1.0},
    }
    (directory / "summary.json").write_text(json.dumps({**facts, **(summary or {})}))


def planned(
    folder: Path,
    contenders: Mapping[str, Callable[[int], Sequence[float]]],
    seeds: Sequence[int],
    *,
    conditions: Sequence[dict[str, Any]] = ({},),
    **changes: Any,
) -> Comparison:
    """Return a comparison whose runs are all finished; a contender is a function from seed to its accuracies."""
    runs = [
        PlannedRun(f"{name.replace(' ', '-')}-{place}-{seed}", name, condition, {}, seed)
        for name in contenders
        for place, condition in enumerate(conditions)
        for seed in seeds
    ]
    plan = Comparison(
        comparison_id="c",
        name="made-up",
        baseline=next(iter(contenders)),
        metric=None,
        target=None,
        seeds=tuple(seeds),
        condition_keys=tuple(dict.fromkeys(key for condition in conditions for key in condition)),
        created="2026-01-31T12:00:00Z",
        environment={},
        runs=tuple(runs),
    )
    plan = Comparison(**{**vars(plan), **changes}).write(folder)
    for run in plan.runs:
        write_run(run.directory, run.contender.split()[0], contenders[run.contender](run.seed))
    return plan
