"""Laws of the split of each client into train and validation, over all shapes of cohorts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedgraft.data.federation import split
from fedgraft.data.ragged import Ragged, ascending, ragged

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
cohorts = st.lists(st.integers(0, 30), min_size=1, max_size=12)
fractions = st.floats(0, 0.99)
caps = st.none() | st.integers(1, 20)


def cohort(counts: list[int], seed: int = 0) -> tuple[Ragged, tuple[str, ...]]:
    shuffled = np.random.default_rng(seed).permutation(sum(counts))
    return ascending(ragged(shuffled, counts)), tuple(f"site {number}" for number in range(len(counts)))


@quick
@given(cohorts, fractions, caps, st.integers(0, 2**62))
def test_parts_are_disjoint_and_of_the_stated_sizes(
    counts: list[int], fraction: float, cap: int | None, seed: int
) -> None:
    members, names = cohort(counts)
    train, validation = split(members, names, seed, validation_fraction=fraction, max_samples=cap)
    for number, count in enumerate(counts):
        kept = count if cap is None else min(count, cap)
        in_validation = min(int(np.floor(fraction * kept + 0.5)), max(kept - 1, 0))
        both = [*train.of(number).tolist(), *validation.of(number).tolist()]
        assert len(validation.of(number)) == in_validation
        assert len(train.of(number)) == kept - in_validation
        assert len(set(both)) == len(both)
        assert set(both) <= set(members.of(number).tolist())
        assert (np.diff(train.of(number)) > 0).all()
        if count:
            assert len(train.of(number)) >= 1


@quick
@given(cohorts, fractions, caps, st.data())
def test_a_client_alone_splits_as_in_its_cohort(
    counts: list[int], fraction: float, cap: int | None, data: st.DataObject
) -> None:
    members, names = cohort(counts)
    number = data.draw(st.integers(0, len(counts) - 1))
    whole = split(members, names, 5, validation_fraction=fraction, max_samples=cap)
    alone = ragged(members.of(number), [counts[number]])
    parts = split(alone, names[number : number + 1], 5, validation_fraction=fraction, max_samples=cap)
    for of_cohort, of_one in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(of_cohort.of(number), of_one.of(0))


def test_seed_and_name_decide_the_split() -> None:
    members, names = cohort([200, 200])
    same = [split(members, names, 1, validation_fraction=0.5)[0] for _ in range(2)]
    np.testing.assert_array_equal(same[0].indices, same[1].indices)
    other_seed = split(members, names, 2, validation_fraction=0.5)[0]
    other_name = split(members, ("site 0", "elsewhere"), 1, validation_fraction=0.5)[0]
    assert (other_seed.indices != same[0].indices).any()
    np.testing.assert_array_equal(other_name.of(0), same[0].of(0))
    assert (other_name.of(1) != same[0].of(1)).any()


def test_every_sample_is_as_likely_to_be_held_for_validation() -> None:
    """Each of 10 samples of 4,000 clients: mean 0.3, standard error sqrt(0.21 / 4000) = 0.0072."""
    members, names = cohort([10] * 4000)
    validation = split(members, names, 3, validation_fraction=0.3)[1]
    position = np.searchsorted(members.offsets, np.arange(40_000), side="right") - 1
    chosen = np.isin(members.indices, validation.indices).reshape(4000, 10).mean(axis=0)
    assert len(position) == 40_000
    np.testing.assert_allclose(chosen, 0.3, atol=5 * 0.0072)


def test_a_list_is_a_view_and_a_number_outside_is_refused() -> None:
    lists = ragged(np.array([4, 7, 1]), [2, 0, 1])
    assert lists.of(0).base is not None
    assert [lists.of(number).tolist() for number in range(len(lists))] == [[4, 7], [], [1]]
    assert lists.counts.tolist() == [2, 0, 1]
    assert lists.owners.tolist() == [0, 0, 2]
    with pytest.raises(IndexError, match="list -1 of 3"):
        lists.of(-1)
