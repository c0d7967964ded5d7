"""The verdict of a condition: what the numbers let one say, as plain sentences, and no more than that.

A contender is said to beat the baseline, or to lose, where the adjusted p is below 0.05; otherwise the two can't be
told apart. Whether the leader can be told apart from the others was not planned before the numbers were seen: its
p-values are multiplied by the number of all pairs (Bonferroni), so that picking the largest of many is paid for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scenarios.comparison.estimates import LEVEL, Difference, difference
from scenarios.comparison.findings import Metric, Row, Verdict
from scenarios.comparison.wording import amount_text, bytes_text, count, estimate_text, joined, on_seeds, value_text

Judgement = Literal["better", "worse", "unclear", "equal", "untested"]

NOTHING = Verdict("There is no result yet.", (), ())


def judged(found: Difference, higher_is_better: bool) -> Judgement:
    """Return what a difference lets one say of the first contender."""
    if found.ties == found.num_seeds > 1:
        return "equal"
    if found.adjusted_p is None:
        return "untested"
    if found.adjusted_p >= 1 - LEVEL:
        return "unclear"
    return "better" if (found.estimate.mean > 0) == higher_is_better else "worse"


@dataclass(frozen=True)
class _Judged:
    """A contender against another, and what that lets one say."""

    title: str
    found: Difference
    judgement: Judgement

    @property
    def losses(self) -> int:
        return self.found.num_seeds - self.found.wins - self.found.ties


def leader_of(rows: Sequence[Row], metric: Metric) -> Row | None:
    """Return the contender with the best mean; None without results."""
    there = [row for row in rows if row.value is not None]
    sign = 1 if metric.higher_is_better else -1
    return max(there, key=lambda row: sign * row.value.mean if row.value else 0.0, default=None)


def condition_verdict(rows: Sequence[Row], baseline: str, metric: Metric, target: float | None) -> Verdict:
    """Return what the rows of one condition let one say."""
    leader = leader_of(rows, metric)
    if leader is None or leader.value is None:
        return NOTHING
    base = next((row for row in rows if row.contender == baseline), None)
    if len([row for row in rows if row.value is not None]) == 1:
        return Verdict(_alone(leader, metric), tuple(_costs(rows, metric, target)), (leader.contender,))
    against_base = _against_baseline(rows, metric)
    ahead = _ahead_of(leader, rows, baseline, metric, against_base)
    best = (leader.contender, *(name for name, entry in ahead.items() if entry.judgement != "better"))
    sentences = _sentences_on_baseline(base, leader, against_base, metric)
    sentences += _sentences_on_leader(leader, ahead, baseline, metric)
    sentences += _costs(rows, metric, target)
    return Verdict(_headline(leader, base, against_base, ahead, metric), tuple(sentences), best)


def _alone(row: Row, metric: Metric) -> str:
    if row.value is None:
        return NOTHING.headline
    seeds = count(len(row.value.values), "seed")
    return f"{row.title} reaches {estimate_text(row.value, metric)} in {metric.title}, over {seeds}."


def _against_baseline(rows: Sequence[Row], metric: Metric) -> dict[str, _Judged]:
    return {
        row.contender: _Judged(row.title, row.difference, judged(row.difference, metric.higher_is_better))
        for row in rows
        if row.difference is not None
    }


def _ahead_of(
    leader: Row, rows: Sequence[Row], baseline: str, metric: Metric, against_base: dict[str, _Judged]
) -> dict[str, _Judged]:
    """Return the leader against each other; what was said of the baseline, as planned, holds here too."""
    num_pairs = len(rows) * (len(rows) - 1) // 2
    found: dict[str, _Judged] = {}
    for row in rows:
        if row is leader or row.value is None or leader.value is None:
            continue
        made = difference(leader.value.values, row.value.values, metric.higher_is_better)
        if made is None:
            continue
        made = replace(made, adjusted_p=None if made.p is None else min(1.0, made.p * num_pairs))
        judgement = judged(made, metric.higher_is_better)
        if row.contender == baseline and leader.contender in against_base:
            judgement = against_base[leader.contender].judgement
        elif leader.contender == baseline and row.contender in against_base:
            judgement = _turned(against_base[row.contender].judgement)
        found[row.contender] = _Judged(row.title, made, judgement)
    return found


def _turned(judgement: Judgement) -> Judgement:
    turned: dict[Judgement, Judgement] = {"better": "worse", "worse": "better"}
    return turned.get(judgement, judgement)


def _headline(
    leader: Row, base: Row | None, against_base: dict[str, _Judged], ahead: dict[str, _Judged], metric: Metric
) -> str:
    """Return the one sentence that says most."""
    opening = f"In {metric.title}, "
    if leader.value is None:
        return NOTHING.headline
    of_base = against_base.get(leader.contender)
    if of_base is not None and base is not None and of_base.judgement == "better":
        found = of_base.found
        return f"{opening}{_beats(leader.title, base.title, found, found.wins, metric)}."
    mean = f"{leader.title} has the best mean, {estimate_text(leader.value, metric)}"
    if len(leader.value.values) == 1:
        return f"{opening}{mean}, but one seed can't say whether that is chance."
    beaten = [entry for entry in ahead.values() if entry.judgement == "better"]
    unclear = [entry.title for entry in ahead.values() if entry.judgement != "better"]
    if not beaten:
        return f"{opening}{mean}, but it can't be told apart from {_some(unclear)}."
    if not unclear:
        return f"{opening}{mean}, ahead of every other contender."
    return f"{opening}{mean}; it can't be told apart from {_some(unclear)}."


def _some(titles: Sequence[str], limit: int = 5) -> str:
    """Return a few names in full, of many the number."""
    return joined(titles) if len(titles) <= limit else f"{len(titles)} others"


def _beats(winner: str, loser: str, found: Difference, wins: int, metric: Metric) -> str:
    return f"{winner} beats {loser} by {amount_text(found.estimate, metric)} {on_seeds(found, wins)}"


def _sentences_on_baseline(
    base: Row | None, leader: Row, against_base: dict[str, _Judged], metric: Metric
) -> list[str]:
    """Say of each other contender how it stands to the baseline; the headline has the leader where it beats it."""
    if base is None or base.value is None:
        title = base.title if base is not None else "the baseline"
        return [f"{title} is the baseline and has no result, so nothing is compared with it."]
    of: dict[Judgement, list[_Judged]] = {}
    for name, entry in against_base.items():
        if not (name == leader.contender and entry.judgement == "better"):
            of.setdefault(entry.judgement, []).append(entry)
    found = [
        f"{_beats(entry.title, base.title, entry.found, entry.found.wins, metric)}." for entry in of.get("better", [])
    ]
    found += [f"{_beats(base.title, entry.title, entry.found, entry.losses, metric)}." for entry in of.get("worse", [])]
    unclear = [entry.title for entry in of.get("unclear", [])] if leader is not base else []  # the headline has them
    if len(unclear) == 1:
        found.append(f"{unclear[0]} and {base.title} can't be told apart.")
    elif unclear:
        found.append(f"{joined(unclear)} can't be told apart from {base.title}.")
    if of.get("equal"):
        found.append(f"{joined([entry.title for entry in of['equal']])} gave the same as {base.title} on every seed.")
    return found + [_untested(entry, base.title, metric) for entry in of.get("untested", [])]


def _untested(entry: _Judged, base: str, metric: Metric) -> str:
    found = entry.found
    where = "ahead of" if found.wins else "behind"
    if not found.wins and not entry.losses:
        where = "level with"
    gap = amount_text(replace(found.estimate, low=None, high=None), metric)
    if found.num_seeds == 1:
        only = f"seed {next(iter(found.estimate.values))}, the only one that both have"
        return f"{entry.title} is {gap} {where} {base} on {only}; another seed may say otherwise."
    seeds = count(found.num_seeds, "seed")
    return f"{entry.title} is {gap} {where} {base} on each of {seeds}; what never varies can't be tested."


def _sentences_on_leader(leader: Row, ahead: dict[str, _Judged], baseline: str, metric: Metric) -> list[str]:
    """Say how the leader stands to those that are not the baseline, if the headline has not said it."""
    others = {name: entry for name, entry in ahead.items() if name != baseline}
    if leader.contender == baseline or not others or leader.value is None or len(leader.value.values) == 1:
        return []
    beaten = [entry.title for entry in others.values() if entry.judgement == "better"]
    unclear = [entry for entry in others.values() if entry.judgement != "better"]
    if not unclear:
        return [f"{leader.title} is ahead of all others too."]
    gaps = [f"{entry.title} ({amount_text(entry.found.estimate, metric)} behind)" for entry in unclear[:5]]
    more = f" and {len(unclear) - 5} more" if len(unclear) > 5 else ""
    named = ", ".join(gaps) if more else joined(gaps)
    rest = f"; it is ahead of {_some(beaten)}" if beaten else ""
    return [f"{leader.title} has the best mean, but can't be told apart from {named}{more}{rest}."]


def _costs(rows: Sequence[Row], metric: Metric, target: float | None) -> list[str]:
    """Say who reached the target on all seeds with the fewest bytes, and who never did."""
    if target is None:
        return []
    wanted = value_text(target, metric)
    there = [row for row in rows if row.to_target is not None and row.num_finished]
    sure = [row for row in there if row.to_target and row.to_target.bytes and row.to_target.reached == row.num_finished]
    never = [row.title for row in there if row.to_target and not row.to_target.reached]
    found = []
    if sure:
        cheapest = min(sure, key=lambda row: row.to_target.bytes.mean if row.to_target and row.to_target.bytes else 0.0)
        spent = cheapest.to_target
        if spent is not None and spent.bytes is not None and spent.rounds is not None:
            rounds = f"{spent.rounds.mean:.3g} round{'' if spent.rounds.mean == 1 else 's'}"
            text = f"{cheapest.title} reaches {wanted} after {bytes_text(spent.bytes.mean)} and {rounds}"
            fewest = ", with the fewest bytes of all" if len(sure) > 1 else ""
            found.append(f"{text} (mean of {count(spent.reached, 'seed')}){fewest}.")
    if never:
        found.append(f"{joined(never)} never {'reaches' if len(never) == 1 else 'reach'} {wanted}.")
    return found
