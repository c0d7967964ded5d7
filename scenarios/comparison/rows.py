"""The table of a condition: each contender's numbers, and how it compares with the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scenarios.comparison.curves import at_bytes, to_target
from scenarios.comparison.estimates import Difference, Estimate, adjusted, best_probabilities, difference, estimate
from scenarios.comparison.findings import Metric, Resources, Row
from scenarios.comparison.records import Forecast, PlannedRun
from scenarios.comparison.results import Result


@dataclass(frozen=True)
class Asked:
    """What is the same for all rows of a condition.

    Attributes:
        metric: what decides.
        baseline: the contender that others are measured against.
        target: of the metric, or None.
        equal_bytes: where contenders are compared at equal cost, or None.
        key: names the condition, for the draws of the bootstrap.
    """

    metric: Metric
    baseline: str
    target: float | None
    equal_bytes: float | None
    key: str


def deciding(results: Sequence[Result], metric: str) -> dict[int, float]:
    """Return the value of a metric at each run's end, by seed."""
    return {result.seed: result.final[metric] for result in results if metric in result.final}


def rows(
    planned: Mapping[str, Sequence[PlannedRun]],
    results: Mapping[str, Sequence[Result]],
    titles: Mapping[str, str],
    asked: Asked,
) -> tuple[Row, ...]:
    """Return a row for each contender.

    Args:
        planned: contender -> its runs.
        results: contender -> those that can be used.
        titles: contender -> its name in a text.
        asked: what is the same for all rows.
    """
    metric = asked.metric
    values = {name: deciding(results[name], metric.name) for name in planned}
    found = {name: of for name, of in values.items() if of}
    best = best_probabilities(found, metric.higher_is_better, asked.key) if len(found) > 1 else {}
    differences = _to_baseline(values, asked)
    return tuple(
        Row(
            contender=name,
            title=titles[name],
            num_planned=len(runs),
            num_finished=len(results[name]),
            value=estimate(values[name]),
            metrics=_metrics(results[name]),
            difference=differences.get(name),
            best_probability=best.get(name),
            to_target=None if asked.target is None else to_target(results[name], metric, asked.target),
            at_equal_bytes=_at_equal_bytes(results[name], asked),
            resources=_resources(runs, results[name]),
            own_heads=any(result.own_answer for result in results[name]),
        )
        for name, runs in planned.items()
    )


def _to_baseline(values: Mapping[str, Mapping[int, float]], asked: Asked) -> dict[str, Difference]:
    """Return each other contender's difference to the baseline, with p-values adjusted together."""
    theirs = values.get(asked.baseline, {})
    made = {
        name: difference(ours, theirs, asked.metric.higher_is_better)
        for name, ours in values.items()
        if name != asked.baseline
    }
    there = {name: entry for name, entry in made.items() if entry is not None}
    return dict(zip(there, adjusted(list(there.values())), strict=True))


def _metrics(results: Sequence[Result]) -> dict[str, Estimate]:
    names = dict.fromkeys(name for result in results for name in result.final)
    made = {name: estimate(deciding(results, name)) for name in names}
    return {name: found for name, found in made.items() if found is not None}


def _at_equal_bytes(results: Sequence[Result], asked: Asked) -> Estimate | None:
    return None if asked.equal_bytes is None else estimate(at_bytes(results, asked.metric.name, asked.equal_bytes))


def _resources(planned: Sequence[PlannedRun], results: Sequence[Result]) -> Resources:
    forecasts = [run.forecast for run in planned if run.forecast is not None]
    memory = {result.seed: float(result.summary["peak_memory_bytes"]) for result in results if _has_memory(result)}
    return Resources(
        seconds=estimate({result.seed: float(sum(result.summary["seconds"].values())) for result in results}),
        bytes=estimate({result.seed: result.summary["bytes_down"] + result.summary["bytes_up"] for result in results}),
        memory_bytes=estimate(memory),
        forecast=_mean(forecasts) if forecasts else None,
    )


def _has_memory(result: Result) -> bool:
    return isinstance(result.summary.get("peak_memory_bytes"), int | float)


def _mean(forecasts: Sequence[Forecast]) -> Forecast:
    def of(name: str) -> float | None:
        values = [value for forecast in forecasts if (value := getattr(forecast, name)) is not None]
        return sum(values) / len(values) if values else None

    return Forecast(of("seconds"), of("bytes"), of("memory_bytes"))
