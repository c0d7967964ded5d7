"""Randomness against SplitMix64's published outputs, a plain-Python implementation, and chance."""

from __future__ import annotations

import itertools
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splitmix import outputs, permutation, scramble, stream_key

from fedgraft.randomness import GAMMA, key, mix, name_key, name_keys, orders, rng

PUBLISHED = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)
"""The first outputs for the seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64")."""

words = st.integers(0, 2**64 - 1)


def test_mix_gives_the_published_outputs() -> None:
    counters = np.arange(1, 6, dtype=np.uint64)
    assert tuple(mix(np.uint64(1234567) + counters * GAMMA)) == PUBLISHED
    assert tuple(itertools.islice(outputs(1234567), 5)) == PUBLISHED


@given(values=st.lists(words, min_size=1, max_size=20))
def test_mix_is_the_finaliser_and_loses_nothing(values: list[int]) -> None:
    mixed = mix(np.array(values, dtype=np.uint64))
    assert mixed.tolist() == [scramble(value) for value in values]
    assert len(set(mixed.tolist())) == len(set(values))


@given(
    seed=st.integers(0, 2**63 - 1),
    purpose=st.text(max_size=12),
    round_number=st.integers(0, 10**6),
    clients=st.lists(words, min_size=1, max_size=6),
    epoch=st.integers(0, 1000),
    length=st.integers(0, 40),
)
def test_keys_and_orders_are_those_of_plain_python(
    seed: int, purpose: str, round_number: int, clients: list[int], epoch: int, length: int
) -> None:
    keys = key(seed, purpose, round_number, np.array(clients, dtype=np.uint64), epoch)
    assert keys.tolist() == [stream_key(seed, purpose, round_number, client, epoch) for client in clients]
    assert orders(keys, length).tolist() == [permutation(int(each), length) for each in keys]


@given(clients=st.lists(words, min_size=2, max_size=8, unique=True), length=st.integers(1, 30), data=st.data())
def test_a_client_alone_sees_what_it_sees_in_a_cohort(clients: list[int], length: int, data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(clients))
    cohort = orders(key(7, "batches", 3, np.array(shuffled, dtype=np.uint64), 2), length)
    for client, order in zip(shuffled, cohort, strict=True):
        assert orders(key(7, "batches", 3, client, 2), length)[0].tolist() == order.tolist()


def test_every_part_of_a_key_gives_another_stream() -> None:
    base = (1, "batches", 1, name_key("client-0"), 0)
    others = [
        (2, "batches", 1, name_key("client-0"), 0),
        (1, "cohort", 1, name_key("client-0"), 0),
        (1, "batches", 2, name_key("client-0"), 0),
        (1, "batches", 1, name_key("client-1"), 0),
        (1, "batches", 1, name_key("client-0"), 1),
        (0, "batches", 1, name_key("client-0"), 1),  # a carry from one part into the next would undo this
        (1, "batches", 0, name_key("client-0"), 1),
        (2**63 - 1, "batches", 1, name_key("client-0"), 0),
    ]
    keys = [int(key(*parts)[0]) for parts in (base, *others)]
    assert len(set(keys)) == len(keys)
    lists = {tuple(orders(np.array([each], dtype=np.uint64), 50)[0].tolist()) for each in keys}
    assert len(lists) == len(keys)


def test_many_keys_do_not_collide() -> None:
    """Of 2**17 random 64-bit keys, two are equal with probability 5e-10."""
    clients = name_keys([f"client-{number:06d}" for number in range(2**17)])
    assert len(np.unique(clients)) == len(clients)
    assert len(np.unique(key(1, "batches", 1, clients, 0))) == len(clients)


@pytest.mark.parametrize("length", [2, 5, 10])
def test_every_position_is_equally_likely(length: int) -> None:
    """Each sample stands at each place with equal frequency: chi-square with (n - 1)**2 degrees of freedom.

    The statistic has the mean (n - 1)**2 and twice that as its variance; five deviations are allowed.
    """
    num_keys = 20_000
    permutations = orders(key(3, "batches", 1, np.arange(num_keys, dtype=np.uint64)), length)
    assert (np.sort(permutations, axis=1) == np.arange(length)).all()
    expected = num_keys / length
    counts = np.stack([np.bincount(permutations[:, place], minlength=length) for place in range(length)])
    statistic = (np.square(counts - expected) / expected).sum()
    freedom = (length - 1) ** 2
    assert abs(statistic - freedom) < 5 * sqrt(2 * freedom) + 5


def test_every_permutation_of_three_is_equally_likely() -> None:
    """Six permutations, five degrees of freedom; 30 is exceeded with probability 1.5e-5."""
    permutations = orders(key(4, "batches", 1, np.arange(30_000, dtype=np.uint64)), 3)
    _, counts = np.unique(permutations, axis=0, return_counts=True)
    assert len(counts) == 6
    assert (np.square(counts - 5000) / 5000).sum() < 30


def test_neighbouring_rounds_are_not_alike() -> None:
    """The first sample of one round says nothing of the next round's: 100 cells, 81 degrees of freedom."""
    clients = np.arange(20_000, dtype=np.uint64)
    first = orders(key(5, "batches", 1, clients), 10)[:, 0]
    second = orders(key(5, "batches", 2, clients), 10)[:, 0]
    counts = np.bincount(first * 10 + second, minlength=100)
    assert (np.square(counts - 200) / 200).sum() < 81 + 5 * sqrt(162)


def test_rng_is_a_pure_function_of_its_arguments() -> None:
    draws = {
        tuple(rng(*parts).integers(0, 2**62, 3).tolist())
        for parts in ((1, "a"), (2, "a"), (1, "b"), (1, "a", 1), (1, "a", 0, "client-1"), (1, "a", 1, "client-1"))
    }
    assert len(draws) == 6
    assert rng(1, "a").standard_normal(5).tolist() == rng(1, "a").standard_normal(5).tolist()


def test_numpy_has_no_say_in_it() -> None:
    """NumPy's global generator neither feeds our draws nor is moved by them."""
    np.random.seed(0)  # noqa: NPY002 - the global generator is what this test is about
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = orders(key(1, "batches"), 20)
    rng(1, "x").normal()
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert (orders(key(1, "batches"), 20) == first).all()
