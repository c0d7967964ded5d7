"""The stages of a run: parts of its rounds that follow one another, each with settings of its own.

Rounds are numbered through. A stage has the numbers after those of the stages before it, whether or not these had all
their rounds: so which stage a round is of, and every draw for it, is known from the scenario alone, by anybody.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any


def last_rounds(rounds: Sequence[int]) -> tuple[int, ...]:
    """Return the number of each stage's last round, from how many rounds each may have."""
    return tuple(accumulate(rounds))


def stage_of(last: Sequence[int], round_number: int) -> int:
    """Return which stage, from 0, a round is of; round 0, before training, is of the first.

    Args:
        last: what `last_rounds` returned.
        round_number: numbers after the end are of the last stage.
    """
    return min(bisect_left(last, round_number), len(last) - 1)


def strategies_text(summary: Mapping[str, Any]) -> str:
    """Return how a run's summary is headed: by its strategy, or those of its stages, one after another."""
    return ", then ".join(stage["strategy"] for stage in summary.get("stages", [])) or str(summary["strategy"])
