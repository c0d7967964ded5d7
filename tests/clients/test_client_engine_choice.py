"""Buckets and forms: a pure function of shapes, every client once, bounded padding and memory, and what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.engine import choice
from clients.engine.choice import Bucket, at_once, buckets, choose, cost, dual_fits, explain, groups
from clients.settings import Adam, AdamW, Sgd, TrainSettings
from fedgraft.models.head_settings import CosineHead, HeadSettings, LinearHead, MlpHead

FIVE = TrainSettings(local_epochs=5, batch_size=10)


def of(sizes: Any, feature_dim: int = 1280, num_outputs: int = 10, **values: Any) -> list[Bucket]:
    train, head = values.pop("train", FIVE), values.pop("head", LinearHead())
    return buckets(np.asarray(sizes, dtype=np.int64), feature_dim, num_outputs, head, train)


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=40),
    feature_dim=st.integers(1, 3000),
    num_outputs=st.integers(1, 300),
    head=st.sampled_from([LinearHead(), CosineHead(), MlpHead(hidden=(64,))]),
    form=st.sampled_from(["auto", "dual", "primal"]),
)
def test_every_client_with_samples_stands_in_one_bucket(
    sizes: list[int], feature_dim: int, num_outputs: int, head: HeadSettings, form: Any
) -> None:
    found = of(sizes, feature_dim, num_outputs, head=head, train=TrainSettings(local_epochs=2, form=form))
    placed = np.concatenate([[], *(bucket.clients for bucket in found)]).astype(int)
    assert sorted(placed) == [position for position, size in enumerate(sizes) if size]
    in_order = np.concatenate([[], *(bucket.sizes for bucket in found)]).astype(int)
    assert (np.diff(in_order) <= 0).all()
    for bucket in found:
        assert bucket.sizes.tolist() == [sizes[position] for position in bucket.clients]
        assert bucket.sizes.min() * choice.LARGEST_RATIO >= bucket.sizes[0]
        if form != "auto" and isinstance(head, LinearHead):
            assert bucket.form == form
        if not isinstance(head, LinearHead):
            assert bucket.form == "primal"


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=40),
    repeat=st.sampled_from([1, 5, 50]),
    feature_dim=st.integers(1, 3000),
    num_parameters=st.integers(1, 1_000_000),
    form=st.sampled_from(["auto", "dual", "primal"]),
    room=st.sampled_from([2**18, 2**22, 2**27]),
    data=st.data(),
)
def test_whoever_trains_does_so_once_and_not_with_too_many(
    sizes: list[int], repeat: int, feature_dim: int, num_parameters: int, form: Any, room: int, data: st.DataObject
) -> None:
    train = TrainSettings(local_epochs=2, form=form)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "BYTES_AT_ONCE", room)
        found = of(sizes * repeat, feature_dim, train=train)
        seed = data.draw(st.integers(0, 1000))
        share = data.draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
        draws = [np.random.default_rng([seed, bucket.sizes[0]]).random(len(bucket.clients)) for bucket in found]
        chosen = [np.flatnonzero(values <= share) for values in draws]
        formed = groups(found, chosen, feature_dim, num_parameters, train)
    trained = [(number, row) for group in formed for number, rows in group for row in rows.tolist()]
    assert trained == [(number, row) for number, rows in enumerate(chosen) for row in rows.tolist()]
    for group in formed:
        (kind,) = {found[number].form for number, _ in group}
        of_all = np.concatenate([found[number].sizes[rows] for number, rows in group])
        largest = int(found[group[0][0]].sizes[0])
        held = largest * feature_dim + (largest**2 if kind == "dual" else 4 * num_parameters)
        assert len(of_all) == 1 or 4 * len(of_all) * held <= room
        if len(group) > 1:
            assert len(of_all) <= choice.FEW
            assert of_all.min() * choice.FEW_RATIO >= largest or largest <= train.batch_size


def test_few_clients_of_several_buckets_train_at_once() -> None:
    """Buckets of 50, 30, 20 and 9 samples: 30 is more than half of 50, 20 is not; 20 and 9 are not alike either."""
    found = of([50] * 40 + [30] * 4 + [20] * 3 + [9] * 2 + [4, 1])
    assert [int(bucket.sizes[0]) for bucket in found] == [50, 30, 20, 9, 4, 1]

    def formed(*chosen: list[int]) -> list[list[tuple[int, list[int]]]]:
        rows = [np.array(part, dtype=np.int64) for part in chosen]
        return [[(n, part.tolist()) for n, part in group] for group in groups(found, rows, 1280, 12_810, FIVE)]

    assert formed([0, 7], [1], [], [], [], []) == [[(0, [0, 7]), (1, [1])]]
    assert formed([0], [1], [2], [0], [], []) == [[(0, [0]), (1, [1])], [(2, [2])], [(3, [0])]]
    assert formed([], [], [], [0], [0], [0]) == [[(3, [0]), (4, [0]), (5, [0])]]  # of less than a batch, any
    everyone = [list(range(40)), list(range(4)), [], [], [], []]
    assert formed(*everyone) == [[(0, everyone[0])], [(1, everyone[1])]]
    assert formed([], [], [], [], [], []) == []


def test_large_heads_train_in_smaller_groups() -> None:
    """Four copies of a head of 1280 x 256 x 10 beside 50 x 1280 features are 5.5 MB a client."""
    assert at_once("primal", 50, 1280, 330_506, FIVE) == 16  # memory leaves room for 24, the cache for 2
    assert at_once("dual", 50, 1280, 12_810, FIVE) == choice.BYTES_AT_ONCE // (4 * (50 * 1280 + 50 * 50))
    assert at_once("dual", 200_000, 1280, 12_810, FIVE) == at_once("primal", 200_000, 1280, 12_810, FIVE) == 1


def test_a_gram_matrix_that_is_too_large_is_not_made() -> None:
    """Of 5,792 samples it has 128 MiB; one sample more, and even `form: dual` trains the primal form."""
    train = FIVE.model_copy(update={"form": "dual"})
    assert choose(5792, 1280, 10, LinearHead(), train) == "dual"
    assert choose(5793, 1280, 10, LinearHead(), train) == "primal"


def test_equal_clients_share_a_bucket_and_ties_keep_their_order() -> None:
    (bucket,) = of([50] * 100)
    assert bucket.clients.tolist() == list(range(100))
    (bucket,) = of([48, 50, 0, 50, 48])
    assert bucket.clients.tolist() == [1, 3, 0, 4]


def test_choices_are_made_of_shapes_alone() -> None:
    """Of the cost of this very size, whoever else is there; and alike whenever it is asked."""
    sizes = np.random.default_rng(0).integers(1, 3000, 200)
    found, again = of(sizes), of(sizes)
    assert [bucket.clients.tolist() for bucket in found] == [bucket.clients.tolist() for bucket in again]
    for bucket in found:
        assert bucket.form == choose(int(bucket.sizes[0]), 1280, 10, LinearHead(), FIVE)
    assert {bucket.form for bucket in found} == {"dual", "primal"}


@pytest.mark.parametrize(
    ("size", "feature_dim", "num_outputs", "form"),
    [
        (50, 1280, 10, "dual"),  # the design's measurement: 10 ms a round against 26 ms
        (20, 1280, 10, "dual"),
        (5_000, 1280, 10, "primal"),  # more samples than features: the span is the whole space
        (5_000, 8, 3, "primal"),
    ],
)
def test_the_cheaper_form(size: int, feature_dim: int, num_outputs: int, form: str) -> None:
    assert choose(size, feature_dim, num_outputs, LinearHead(), FIVE) == form


def test_costs_by_hand() -> None:
    """50 samples, 1280 x 10, 25 steps of 10; then 12 samples in 10 steps, of which every other has two."""
    dual = 3400 * 25 + 250 * (50 * 2.99 + 180) + 50 * 1280 * 2.07 + 0.021 * 2500 * 1280 / 20
    assert cost("dual", 50, 1280, 10, FIVE) == pytest.approx(dual, rel=1e-12)
    primal = 4300 * 25 + 250 * (1280 * 2.65 + 290) + 3.6 * 25 * 12_800 + 0.69 * 50 * 1280
    assert cost("primal", 50, 1280, 10, FIVE) == pytest.approx(primal, rel=1e-12)
    dual = 3400 * 10 + 60 * (12 * 2.99 + 180) + 12 * 1280 * 2.07 + 0.021 * 144 * 1280 / 20
    assert cost("dual", 12, 1280, 10, FIVE) == pytest.approx(dual, rel=1e-12)


@pytest.mark.parametrize(
    ("size", "feature_dim", "num_outputs", "batch_size", "epochs", "dual", "primal"),
    [
        (50, 1280, 10, 10, 5, 224, 1708),
        (20, 1280, 10, 10, 5, 97, 744),
        (200, 1280, 10, 10, 5, 1270, 6216),
        (500, 1280, 10, 10, 5, 5080, 15315),
        (2000, 1280, 10, 10, 5, 67054, 87035),
        (500, 1280, 2, 10, 5, 5057, 14331),
        (500, 1280, 10, 32, 1, 1885, 2612),
        (200, 256, 2, 32, 1, 225, 255),
        (500, 256, 10, 10, 5, 6468, 6024),
        (1000, 256, 2, 10, 5, 13721, 9171),
        (5, 1280, 100, 32, 1, 73, 1155),
        (20, 256, 10, 10, 5, 66, 236),
    ],
)
def test_the_choice_was_the_faster_one_or_nearly_where_it_was_measured(
    size: int, feature_dim: int, num_outputs: int, batch_size: int, epochs: int, dual: float, primal: float
) -> None:
    """Microseconds a client by `benchmarks/forms.py`, on a Zen 3 core; not what the model says."""
    train = TrainSettings(local_epochs=epochs, batch_size=batch_size)
    measured = {"dual": dual, "primal": primal}
    chosen = choose(size, feature_dim, num_outputs, LinearHead(), train)
    assert measured[chosen] <= 1.25 * min(measured.values())


@pytest.mark.parametrize("head", [LinearHead(), LinearHead(bias=False), CosineHead(), MlpHead()], ids=repr)
@pytest.mark.parametrize("optimizer", [Sgd(momentum=0.9, nesterov=True, weight_decay=0.1), Adam(), AdamW()], ids=repr)
@pytest.mark.parametrize("form", ["auto", "dual", "primal"])
def test_dual_only_where_it_is_exact(head: Any, optimizer: Any, form: Any) -> None:
    train = TrainSettings(optimizer=optimizer, form=form)
    fits = head.name == "linear" and optimizer.name == "sgd"
    assert dual_fits(head, train) == fits
    assert choose(50, 1280, 10, head, train) == ("dual" if fits and form != "primal" else "primal")


def test_what_is_said_of_the_choice() -> None:
    sizes = [0] + [50] * 1000 + [48] * 4 + [4000] * 2
    found = of(sizes)
    duals = sum(bucket.form == "dual" for bucket in found)
    dual, primal = explain(found, 1280, 10, FIVE)
    assert dual == (
        f"dual form for 1,004 clients of 48 to 50 samples in {duals} buckets "
        "(predicted microseconds a round for the largest: dual 3e+02, primal 2.2e+03)"
    )
    assert primal.startswith("primal form for 2 clients of 4000 to 4000 samples in ")
    assert explain([], 1280, 10, FIVE) == []
