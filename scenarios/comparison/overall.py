"""The verdict over all conditions: who leads where, and who beats the baseline how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scenarios.comparison.findings import Condition, Metric, Verdict
from scenarios.comparison.verdict import NOTHING, judged, leader_of
from scenarios.comparison.wording import count, joined, under_all

MOST_TOLD = 12
"""Conditions of which each has its own sentence in the verdict over all."""


def overall_verdict(
    conditions: Sequence[Condition], titles: Mapping[str, str], baseline: str, metric: Metric
) -> Verdict:
    """Return what all conditions together let one say; of one condition its own verdict."""
    there = [condition for condition in conditions if leader_of(condition.rows, metric) is not None]
    if not there:
        return NOTHING
    if len(there) == 1:
        return there[0].verdict
    leads = _leads(there, metric)
    first = max(leads, key=lambda name: leads[name])
    best = [name for name in titles if all(name in condition.verdict.best for condition in there)]
    sentences = _on_baseline(there, titles, baseline, metric)
    behind = [titles[name] for name in best if leads.get(name, 0) < len(there)]
    if behind:
        sentences.append(f"{joined(behind)} can't be told apart from the best mean under any condition.")
    if len(there) <= MOST_TOLD:
        sentences += [f"{condition.title}: {_lower(condition.verdict.headline, metric)}" for condition in there]
    order = sorted(best, key=lambda name: -leads.get(name, 0))
    return Verdict(_headline(leads, first, len(there), titles, metric), tuple(sentences), tuple(order))


def _leads(conditions: Sequence[Condition], metric: Metric) -> dict[str, int]:
    """Return under how many conditions each contender has the best mean."""
    found: dict[str, int] = {}
    for condition in conditions:
        leader = leader_of(condition.rows, metric)
        if leader is not None:
            found[leader.contender] = found.get(leader.contender, 0) + 1
    return found


def _headline(leads: Mapping[str, int], first: str, total: int, titles: Mapping[str, str], metric: Metric) -> str:
    opening = f"In {metric.title}, "
    if leads[first] == total:
        return f"{opening}{titles[first]} has the best mean {under_all(total)}."
    parts = [f"{titles[name]} under {number}" for name, number in sorted(leads.items(), key=lambda entry: -entry[1])]
    return f"{opening}no contender is best everywhere: of {total} conditions {joined(parts)} has the best mean."


def _on_baseline(
    conditions: Sequence[Condition], titles: Mapping[str, str], baseline: str, metric: Metric
) -> list[str]:
    """Say of each contender under how many conditions it beats the baseline, loses, or can't be told apart."""
    base = titles[baseline]
    never, found = [], []
    for name, title in titles.items():
        judgements = [
            judged(row.difference, metric.higher_is_better)
            for condition in conditions
            for row in condition.rows
            if row.contender == name and row.difference is not None
        ]
        if not judgements:
            continue
        better, worse, total = judgements.count("better"), judgements.count("worse"), len(judgements)
        if not better and not worse:
            never.append(title)
        elif total > 1 and total in (better, worse):
            one, other = (title, base) if better else (base, title)
            found.append(f"{one} beats {other} {under_all(total)}.")
        else:
            parts = [f"beats {base} under {better}"] if better else []
            parts += [f"loses to it under {worse}" if better else f"loses to {base} under {worse}"] if worse else []
            rest = total - better - worse
            parts += [f"can't be told apart from it under {rest}"] if rest else []
            found.append(f"{title} {joined(parts)} of {count(total, 'condition')}.")
    if never:
        found.append(f"{joined(never)} can't be told apart from {base} under any condition.")
    return found


def _lower(headline: str, metric: Metric) -> str:
    """Return a condition's headline without the metric, which the verdict has named."""
    return headline.removeprefix(f"In {metric.title}, ")
