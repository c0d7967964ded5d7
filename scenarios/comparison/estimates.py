"""Means over seeds with what is known of their spread, and differences paired by seed.

A seed decides split, first head and order of batches, so that two contenders of one seed meet the same luck: their
difference varies less than either. Sources: Student, "The probable error of a mean", Biometrika 1908 (interval and
paired test); Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1945 (signed ranks); Holm, "A
simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 1979; Efron, "Bootstrap
methods: another look at the jackknife", Annals of Statistics 1979.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.randomness import rng

LEVEL = 0.95
"""Of intervals; a difference is called one where the adjusted p is below 1 - LEVEL."""

FEWEST_FOR_RANKS = 9
"""Pairs from which on Wilcoxon's test is made: with 5 its p can't come below 0.06, with 9 it reaches 0.004."""

NUM_RESAMPLES = 10_000
"""Of the bootstrap: a probability of one half is known to +- 0.01."""

ROUNDING = 1e-12
"""Spread of differences, over their size, below which they count as equal."""

Test = Literal["t", "wilcoxon"]
Values = Mapping[int, float]
"""A number a seed."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and how sure it is.

    Attributes:
        mean: over the seeds.
        low: lower end of the 95 % t interval; None with one seed.
        high: its upper end.
        values: each seed's own value.
    """

    mean: float
    low: float | None
    high: float | None
    values: Mapping[int, float]

    @property
    def half_width(self) -> float | None:
        """What stands behind the +-; None with one seed."""
        return None if self.high is None else self.high - self.mean


@dataclass(frozen=True)
class Difference:
    """A contender's value less another's, seed by seed.

    Attributes:
        estimate: of the difference, over the seeds that both have.
        wins: seeds on which the contender was better (more where more is better, less otherwise).
        ties: seeds on which both were equal.
        test: what `p` is of: the paired t test, from 9 pairs on Wilcoxon's; None: no test can be made.
        p: two-sided.
        adjusted_p: after Holm's correction over the contenders of the condition.
    """

    estimate: Estimate
    wins: int
    ties: int
    test: Test | None
    p: float | None
    adjusted_p: float | None

    @property
    def num_seeds(self) -> int:
        """Pairs that the difference is over."""
        return len(self.estimate.values)


def estimate(values: Values) -> Estimate | None:
    """Return mean and 95 % t interval of one value a seed; None without any."""
    found = {seed: float(values[seed]) for seed in sorted(values)}
    if not found:
        return None
    numbers = np.array(list(found.values()))
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Estimate(mean, None, None, found)
    half = _quantile(len(numbers) - 1) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Estimate(mean, mean - half, mean + half, found)


def _quantile(degrees_of_freedom: int) -> float:
    """Return Student's t that is exceeded with probability (1 - LEVEL) / 2."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, (1 + LEVEL) / 2))


def difference(ours: Values, theirs: Values, higher_is_better: bool) -> Difference | None:
    """Return our values less theirs over the seeds that both have; None if there are none. p is not adjusted yet."""
    shared = sorted(set(ours) & set(theirs))
    values = {seed: float(ours[seed]) - float(theirs[seed]) for seed in shared}
    found = estimate(values)
    if found is None:
        return None
    numbers = np.array(list(values.values()))
    size = max(abs(float(value)) for seed in shared for value in (ours[seed], theirs[seed]))
    numbers[np.abs(numbers) <= ROUNDING * size] = 0.0
    test, p = _tested(numbers, ROUNDING * size)
    better = numbers > 0 if higher_is_better else numbers < 0
    return Difference(found, int(better.sum()), int((numbers == 0).sum()), test, p, p)


def _tested(differences: NDArray[np.float64], rounding: float) -> tuple[Test | None, float | None]:
    """Return the test that fits so many pairs, and its two-sided p; None where the differences do not vary."""
    if len(differences) < 2:
        return None, None
    if not differences.any():
        return None, 1.0
    if len(differences) >= FEWEST_FOR_RANKS:
        from scipy.stats import wilcoxon

        return "wilcoxon", float(wilcoxon(differences).pvalue)
    spread = float(differences.std(ddof=1))
    if spread <= rounding:
        return None, None
    from scipy.special import stdtr

    t = float(differences.mean()) / (spread / math.sqrt(len(differences)))
    return "t", float(2 * stdtr(len(differences) - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number: the chance of one false alarm among all stays below the level.

    Sorted ascending, the i-th of m (from 1) becomes `max over j <= i of min(1, (m - j + 1) p_j)`.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * np.asarray(p_values, dtype=np.float64)[order]))
    return [float(value) for value in adjusted]


def adjusted(differences: Sequence[Difference]) -> list[Difference]:
    """Return differences with their p-values adjusted together; those without a p are no part of it."""
    tested = [entry for entry in differences if entry.p is not None]
    by_holm = iter(holm([entry.p for entry in tested if entry.p is not None]))
    return [entry if entry.p is None else replace(entry, adjusted_p=next(by_holm)) for entry in differences]


def best_probabilities(values: Mapping[str, Values], higher_is_better: bool, key: str) -> dict[str, float]:
    """Return how often each contender has the best mean when the seeds are drawn anew, with replacement.

    All contenders see the same draw of seeds; of those that share the best mean each gets an equal part. With few seeds
    the draws are few too: five seeds that all say the same give 1, which is no certainty.

    Args:
        values: contender -> seed -> value; only seeds that all have are drawn.
        higher_is_better: whether more is better.
        key: names the draws: the same key gives the same numbers.

    Returns:
        Contender -> probability; empty with less than two shared seeds.
    """
    shared = sorted(set.intersection(*(set(of) for of in values.values()))) if values else []
    if len(shared) < 2:
        return {}
    table = np.array([[of[seed] for seed in shared] for of in values.values()])
    draws = rng(0, f"best of {key}").integers(0, len(shared), (NUM_RESAMPLES, len(shared)))
    times = np.zeros((NUM_RESAMPLES, len(shared)))
    np.add.at(times, (np.arange(NUM_RESAMPLES)[:, None], draws), 1.0)
    means = times @ table.T * (1.0 if higher_is_better else -1.0) / len(shared)
    best = means.max(axis=1, keepdims=True)
    leads = means >= best - ROUNDING * np.abs(best)
    shares = (leads / leads.sum(axis=1, keepdims=True)).mean(axis=0)
    return {name: float(share) for name, share in zip(values, shares, strict=True)}
