"""Statistics over seeds against SciPy's own tests, tables and published examples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scenarios.comparison.estimates import adjusted, best_probabilities, difference, estimate, holm

shares = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=30)


def by_seed(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values, 1))


@given(shares)
def test_the_interval_is_students(values: list[float]) -> None:
    found = estimate(by_seed(values))
    assert found is not None
    assert found.mean == pytest.approx(np.mean(values))
    error = stats.sem(values)
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), error)
        assert (found.low, found.high) == pytest.approx((low, high))


def test_the_interval_by_hand() -> None:
    """Of 2, 4 and 6: mean 4, deviation 2, so 4 +- 4.303 * 2 / sqrt(3); t(0.975, 2) = 4.303 stands in any table."""
    found = estimate({3: 6, 1: 2, 2: 4})
    assert found is not None
    assert found.half_width == pytest.approx(4.303 * 2 / math.sqrt(3), rel=1e-4)
    assert list(found.values) == [1, 2, 3]


def test_one_seed_has_no_interval_and_none_no_mean() -> None:
    found = estimate({7: 0.5})
    assert found is not None
    assert (found.mean, found.low, found.high, found.half_width) == (0.5, None, None, None)
    assert estimate({}) is None


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=8))
def test_up_to_eight_pairs_are_tested_by_t(pairs: list[tuple[int, int]]) -> None:
    ours, theirs = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    found = difference(by_seed(ours), by_seed(theirs), True)
    assert found is not None
    assert found.wins == sum(our > their for our, their in pairs)
    assert found.ties == sum(our == their for our, their in pairs)
    if len({our - their for our, their in pairs}) > 1:
        assert found.test == "t"
        assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-9)


@given(st.lists(st.integers(-1000, 1000).filter(bool), min_size=9, max_size=30, unique_by=abs))
def test_from_nine_pairs_on_ranks_are_tested(gaps: list[int]) -> None:
    found = difference(by_seed([float(gap) for gap in gaps]), by_seed([0.0] * len(gaps)), True)
    assert found is not None
    assert found.test == "wilcoxon"
    assert found.p == pytest.approx(stats.wilcoxon(gaps).pvalue)


def test_nine_of_nine_by_hand() -> None:
    """Of the 2^9 ways to give signs to nine ranks two are as extreme as all of one sign: p = 2 / 512."""
    found = difference(by_seed([float(rank) for rank in range(1, 10)]), by_seed([0.0] * 9), True)
    assert found is not None
    assert found.p == pytest.approx(2 / 512)


def test_many_ties_pass_without_a_warning() -> None:
    found = difference(by_seed([0.0] * 8 + [1.0, 2.0]), by_seed([0.0] * 10), True)
    assert found is not None
    assert found.test == "wilcoxon"
    assert found.p is not None
    assert 0.1 < found.p <= 1


def test_pairs_are_those_seeds_that_both_have() -> None:
    found = difference({1: 0.9, 2: 0.8, 5: 0.7}, {2: 0.5, 5: 0.5, 6: 0.1}, True)
    assert found is not None
    assert found.estimate.values == pytest.approx({2: 0.3, 5: 0.2})
    assert difference({1: 0.9}, {2: 0.9}, True) is None


def test_less_can_be_better() -> None:
    found = difference({1: 0.1, 2: 0.3}, {1: 0.2, 2: 0.2}, False)
    assert found is not None
    assert found.wins == 1


@pytest.mark.parametrize("count", [2, 5, 12])
def test_equal_values_are_no_difference(count: int) -> None:
    values = {seed: 0.1 * seed for seed in range(count)}
    found = difference(values, dict(values), True)
    assert found is not None
    assert (found.test, found.p, found.ties, found.wins) == (None, 1.0, count, 0)


def test_a_difference_that_never_varies_has_no_test() -> None:
    """Its t would be infinite, and p zero, from two seeds; nothing of chance has been seen."""
    found = difference({1: 0.3, 2: 0.4, 3: 0.5}, {1: 0.2, 2: 0.3, 3: 0.4}, True)
    assert found is not None
    assert (found.test, found.p, found.wins) == (None, None, 3)
    one = difference({1: 0.3}, {1: 0.2}, True)
    assert one is not None
    assert (one.test, one.p, one.estimate.low) == (None, None, None)


def test_holm_on_a_published_example() -> None:
    """The example of Wikipedia's "Holm-Bonferroni method": of four p-values the fourth and the first are rejected.

    At the level 0.05: 0.005 is below 0.05 / 4, 0.01 below 0.05 / 3, but 0.03 not below 0.05 / 2. Sorted, the p-values
    are times 4, 3, 2 and 1, and never below the one before.
    """
    found = holm([0.01, 0.04, 0.03, 0.005])
    assert [p < 0.05 for p in found] == [True, False, False, True]
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    """Holm's adjusted p is the largest Bonferroni p over all sets of hypotheses that hold the one."""
    count = len(p_values)
    sets = [of for size in range(1, count + 1) for of in itertools.combinations(range(count), size)]
    if count > 8:
        return
    bonferroni = [(of, min(1.0, len(of) * min(p_values[one] for one in of))) for of in sets]
    expected = [max(p for of, p in bonferroni if one in of) for one in range(count)]
    assert holm(p_values) == pytest.approx(expected)


def test_only_tested_differences_are_adjusted() -> None:
    base = {1: 0.5, 2: 0.5, 3: 0.5}
    others = [{1: 0.6, 2: 0.7, 3: 0.9}, {1: 0.6, 2: 0.6, 3: 0.6}, {1: 0.4, 2: 0.5, 3: 0.8}]
    plain = [difference(other, base, True) for other in others]
    found = adjusted([entry for entry in plain if entry is not None])
    assert found[1].adjusted_p is None
    first, last = found[0], found[2]
    assert first.p is not None
    assert last.p is not None
    assert first.adjusted_p == pytest.approx(2 * first.p)
    assert last.adjusted_p == pytest.approx(max(2 * first.p, last.p))


def test_the_probability_of_being_best_is_that_of_all_draws() -> None:
    """With three seeds there are 27 draws; counting them all gives the number that the bootstrap approaches."""
    values = {"a": {1: 0.9, 2: 0.5, 3: 0.6}, "b": {1: 0.5, 2: 0.7, 3: 0.7}, "c": {1: 0.6, 2: 0.6, 3: 0.6}}
    wins = dict.fromkeys(values, 0.0)
    for draw in itertools.product((1, 2, 3), repeat=3):
        sums = {name: round(sum(of[seed] for seed in draw), 9) for name, of in values.items()}
        best = [name for name, total in sums.items() if total == max(sums.values())]
        for name in best:
            wins[name] += 1 / len(best) / 27
    found = best_probabilities(values, True, "test")
    assert found == pytest.approx(wins, abs=0.015)
    assert sum(found.values()) == pytest.approx(1)
    assert found == best_probabilities(values, True, "test")
    worst = best_probabilities(values, False, "test")
    assert worst["c"] > found["c"] - 1
    assert sum(worst.values()) == pytest.approx(1)


def test_contenders_that_are_equal_share_the_first_place() -> None:
    values = {"a": {1: 0.1, 2: 0.3}, "b": {1: 0.1, 2: 0.3}, "c": {1: 0.0, 2: 0.2}}
    assert best_probabilities(values, True, "x") == {"a": 0.5, "b": 0.5, "c": 0.0}


def test_less_than_two_shared_seeds_tell_nothing() -> None:
    assert best_probabilities({"a": {1: 0.1, 2: 0.2}, "b": {2: 0.3}}, True, "x") == {}
    assert best_probabilities({}, True, "x") == {}
