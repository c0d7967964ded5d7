"""What the stages of contenders' runs were, cost and reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scenarios.comparison.estimates import Estimate, estimate
from scenarios.comparison.findings import Metric, Staged, StageFound
from scenarios.comparison.results import CLIENTS, Result


def staged(contender: str, title: str, results: Sequence[Result], metric: Metric) -> Staged | None:
    """Return what each stage came to, as means over seeds; None for runs of one piece.

    A stage has the deciding metric where its last evaluation has it: of the global head, on the central test part or
    on the clients' validation parts.
    """
    kept = {result.seed: stages for result in results if (stages := result.summary.get("stages"))}
    names = {tuple(stage["name"] for stage in stages) for stages in kept.values()}
    if len(names) != 1 or len(kept) < len(results):
        return None
    found = [
        _stage({seed: stages[number] for seed, stages in kept.items()}, metric) for number in range(len(names.pop()))
    ]
    return Staged(contender, title, tuple(found))


def _stage(kept: Mapping[int, Mapping[str, Any]], metric: Metric) -> StageFound:
    """Return what one stage came to, from its entry of each seed's summary."""
    first = next(iter(kept.values()))
    part, _, name = metric.name.partition("/")
    part = "validation" if part == CLIENTS else part
    reached = {seed: entry[part][name] for seed, entry in kept.items() if name in entry.get(part, {})}

    def mean(value: Mapping[int, float]) -> Estimate:
        found = estimate(value)
        return found if found is not None else Estimate(0.0, None, None, {})

    return StageFound(
        name=first["name"],
        strategy=first["strategy"],
        rounds=mean({seed: entry["rounds"] for seed, entry in kept.items()}),
        bytes=mean({seed: entry["bytes_down"] + entry["bytes_up"] for seed, entry in kept.items()}),
        seconds=mean({seed: entry["seconds"] for seed, entry in kept.items()}),
        value=estimate(reached),
    )
