"""A metric over rounds, bytes and seconds: its curve, when it reached the target, and where it stood at equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scenarios.comparison.estimates import estimate
from scenarios.comparison.findings import Curve, Metric, Point, ToTarget
from scenarios.comparison.results import NO_FEDERATION, Result

SAME_BYTES = 0.01
"""Part by which bytes may differ and still count as equal: replies state seconds as text, whose length varies."""


def curve(contender: str, title: str, results: Sequence[Result], metric: str) -> Curve:
    """Return the mean of a metric over the seeds, round by round, with what it had cost on average."""
    courses = [(result, result.course(metric)) for result in results]
    points = []
    for number in sorted({number for _, course in courses for number in course}):
        there = [(result, course[number]) for result, course in courses if number in course]
        found = estimate({result.seed: value for result, value in there})
        if found is not None:
            costs = [result.costs[number] for result, _ in there]
            spent = (sum(cost.bytes for cost in costs) / len(costs), sum(cost.seconds for cost in costs) / len(costs))
            points.append(Point(number, *spent, found.mean, found.low, found.high, len(there)))
    return Curve(contender, title, tuple(points))


def to_target(results: Sequence[Result], metric: Metric, target: float) -> ToTarget:
    """Return what it took until an evaluated head first was as good as the target."""
    first: dict[int, tuple[int, Result]] = {}
    for result in results:
        course = result.course(metric.name)
        reached = [number for number, value in course.items() if _as_good(value, target, metric)]
        if reached:
            first[result.seed] = (reached[0], result)
    return ToTarget(
        reached=len(first),
        num_seeds=len(results),
        rounds=estimate({seed: number for seed, (number, _) in first.items()}),
        bytes=estimate({seed: result.costs[number].bytes for seed, (number, result) in first.items()}),
        seconds=estimate({seed: result.costs[number].seconds for seed, (number, result) in first.items()}),
    )


def _as_good(value: float, target: float, metric: Metric) -> bool:
    return value >= target if metric.higher_is_better else value <= target


def equal_bytes(results: Iterable[Result]) -> float | None:
    """Return the largest number of bytes that all runs of several rounds sent; None: no run has several.

    Runs that make their head in one round don't count: what they send is no choice, and less may be enough for them.
    """
    federated = [result for result in results if result.strategy not in NO_FEDERATION]
    sent = [result.costs[result.last_round].bytes for result in federated if result.last_round > 1]
    return min((amount for amount in sent if amount > 0), default=None)


def at_bytes(results: Sequence[Result], metric: str, limit: float) -> dict[int, float]:
    """Return the metric of the last evaluated head that had cost no more, by seed.

    The head before anything was sent does not count: who has made nothing for so much has no value.
    """
    found: dict[int, float] = {}
    for result in results:
        if result.strategy in NO_FEDERATION:
            continue
        costs, most = result.costs, limit * (1 + SAME_BYTES)
        paid = {number: value for number, value in result.course(metric).items() if 0 < costs[number].bytes <= most}
        if paid:
            found[result.seed] = paid[max(paid)]
    return found
