"""Domains made of one source: who has which, what pictures look like, and which of them are the same picture."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgraft.data.domains import dealt, shown, with_domains
from fedgraft.data.federation import Federation, build_federation
from fedgraft.data.settings import DataSettings, DomainSettings
from fedgraft.errors import DataError

PLAIN: dict[str, Any] = {"name": "plain"}


def federation(*domains: dict[str, Any], seed: int = 4, **source: Any) -> Federation:
    values = {
        "source": {"name": "synthetic", "kind": "images", "image_size": 6, "num_samples": 90, "num_classes": 3}
        | source,
        "partition": {"name": "iid", "clients": 5},
        "domains": list(domains),
    }
    return build_federation(DataSettings.model_validate_json(json.dumps(values)), seed)


def test_clients_take_their_turns_and_the_test_part_is_mixed() -> None:
    made = federation(PLAIN, {"name": "dark", "invert": True})
    groups = made.samples.group
    assert groups is not None
    owned = [
        np.unique(groups[made.train.of(k)]).tolist() + np.unique(groups[made.validation.of(k)]).tolist()
        for k in range(5)
    ]
    assert owned == [["plain"] * 2, ["dark"] * 2, ["plain"] * 2, ["dark"] * 2, ["plain"] * 2]
    assert np.unique(groups[made.test], return_counts=True)[1].tolist() == [9, 9]
    assert "clients by domain (data.domains): plain 3, dark 2" in made.notes


@given(st.integers(0, 60), st.lists(st.floats(0, 10), min_size=1, max_size=5).filter(lambda shares: sum(shares) > 0.01))
def test_shares_are_kept_at_every_length(count: int, shares: list[float]) -> None:
    """Quota: nobody is ever a whole turn ahead, so after all turns counts are right to less than the others' number."""
    counts = np.bincount(dealt(count, shares), minlength=len(shares))
    wanted = count * np.array(shares) / sum(shares)
    assert (counts < wanted + 1).all()
    assert counts.sum() == count


def test_a_domain_that_no_client_has() -> None:
    made = federation(PLAIN, {"name": "unseen", "rotate": 90, "share": 0, "test_share": 1})
    groups = made.samples.group
    assert groups is not None
    assert "unseen" not in groups[made.train.indices]
    assert "unseen" in groups[made.test]


def test_groups_are_the_domains_even_where_the_data_name_others() -> None:
    made = federation()
    named = replace(made, samples=replace(made.samples, group=np.array(["clinic"] * 90)))
    groups = with_domains(named, (DomainSettings(name="plain"), DomainSettings(name="dark", invert=True)), 4)
    assert np.unique(groups.samples.group[groups.test]).tolist() == ["dark", "plain"]


def test_the_division_is_that_without_domains_and_so_are_unchanged_pictures() -> None:
    """So features of the plain domain are found where they were kept."""
    without, made = federation(), federation(PLAIN, {"name": "dark", "invert": True}, {"name": "noisy", "noise": 0.1})
    for one, other in ((without.train, made.train), (without.validation, made.validation)):
        assert (one.indices == other.indices).all()
    same = (without.samples.sample_digests() == made.samples.sample_digests()).all(axis=1)
    assert (same == (made.samples.group == "plain")).all()
    before, after = (one.samples.images(np.arange(90)) for one in (without, made))
    dark = made.samples.group == "dark"
    assert (np.asarray(after)[dark] == 255 - np.asarray(before)[dark]).all()
    assert (np.asarray(after)[same] == np.asarray(before)[same]).all()


def test_noise_is_the_same_whenever_a_picture_is_read_and_another_for_another_seed() -> None:
    noisy = {"name": "noisy", "noise": 0.2}
    one, again, other = federation(noisy), federation(noisy), federation(noisy, seed=5)
    assert (np.asarray(one.samples.images([7])) == np.asarray(again.samples.images([3, 7]))[1]).all()
    assert (one.samples.sample_digests() != other.samples.sample_digests()).any(axis=1).all()


@pytest.mark.parametrize(
    ("look", "value", "wanted"),
    [
        ({"invert": True}, 200, 55),
        ({"contrast": 0.5}, 227, 177),  # 127.5 + 99.5 / 2 = 177.25
        ({"brightness": 0.2}, 100, 151),
        ({"brightness": 0.5}, 200, 255),
        ({"contrast": 2.0, "invert": True}, 200, 0),  # 127.5 - 2 * 72.5 < 0
        ({"rotate": 180}, 9, 9),
    ],
)
def test_looks_by_hand(look: dict[str, Any], value: int, wanted: int) -> None:
    image = np.full((4, 4, 3), value, dtype=np.uint8)
    found = shown(image, DomainSettings(name="x", **look), np.random.default_rng(0))
    assert np.unique(found).tolist() == [wanted]


def test_a_quarter_turn_is_against_the_clock() -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    found = shown(image, DomainSettings(name="x", rotate=90), np.random.default_rng(0))
    assert (found == np.rot90(image)).all()


def test_features_have_no_look() -> None:
    with pytest.raises(DataError, match=r"data.domains change pictures, and this source gives ready features"):
        federation(PLAIN, kind="features")


@pytest.mark.parametrize(
    ("domains", "text"),
    [
        ((PLAIN, PLAIN), "came the names plain, plain; give each domain a name of its own"),
        (({"name": "x", "share": 0},), "all shares are 0"),
        (({"name": "x", "blur": 3},), "blur"),
    ],
)
def test_domains_that_can_not_be(domains: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        federation(*domains)
