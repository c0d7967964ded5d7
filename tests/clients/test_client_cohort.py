"""What a reply carries of a cohort: sums by hand, the stack in order, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clients import cohort
from clients.cohort import StackReply, SumReply, check_stack_size
from clients.training import LocalResult
from fedgraft.errors import WireError

HEAD = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.tensor([0.5, -0.5])}


def trained(by: float, num_steps: int) -> LocalResult:
    """Return a head that is `by` above the start everywhere."""
    return LocalResult({name: value + by for name, value in HEAD.items()}, num_steps, 0.0)


def test_sums_by_hand() -> None:
    """Three clients of 2, 3 and 0 samples move by 1, -2 and 8: 2 * 1 - 3 * 2 = -4; nobody asks the empty one."""
    reply = SumReply(("update",), ("weight", "steps", "clients"))
    reply.start(HEAD)
    for by, num_steps, num_samples in ((1.0, 4, 2), (-2.0, 5, 3), (8.0, 0, 0)):
        reply.add(HEAD, trained(by, num_steps), num_samples)
    groups = reply.groups()
    assert set(groups) == {"update"}
    assert groups["update"]["weight"].tolist() == [[-4, -4], [-4, -4]]
    assert groups["update"]["bias"].tolist() == [-4, -4]
    assert all(value.dtype == np.float32 for value in groups["update"].values())
    assert reply.numbers == {"weight": 5, "steps": 9, "clients": 2}


def test_sums_are_added_in_float64() -> None:
    """A large sample count and small updates: added in float32 the small ones would be lost."""
    reply = SumReply(("update",), ())
    head = {"bias": torch.zeros(1)}
    reply.start(head)
    for value in (2.0**24, *[0.5] * 4):
        reply.add(head, LocalResult({"bias": torch.full((1,), value)}, 1, 0.0), 1)
    assert reply.totals["update"]["bias"].tolist() == [2**24 + 2]


def test_only_what_is_asked_for_is_carried() -> None:
    reply = SumReply((), ("steps",))
    reply.start(HEAD)
    reply.add(HEAD, trained(1.0, 4), 2)
    assert (reply.groups(), reply.numbers) == ({}, {"steps": 4})


def test_what_is_asked_for_twice_is_added_once() -> None:
    reply = SumReply(("update", "update"), ("weight", "weight"))
    reply.start(HEAD)
    reply.add(HEAD, trained(1.0, 4), 2)
    assert reply.groups()["update"]["bias"].tolist() == [2, 2]
    assert reply.numbers == {"weight": 2}


def test_a_cohort_of_empty_clients_adds_zeros() -> None:
    reply = SumReply(("update",), ("weight",))
    reply.start(HEAD)
    reply.add(HEAD, trained(0.0, 0), 0)
    assert {name: value.shape for name, value in reply.groups()["update"].items()} == {"weight": (2, 2), "bias": (2,)}
    assert not any(value.any() for value in reply.groups()["update"].values())
    assert reply.numbers == {"weight": 0}


@pytest.mark.parametrize(
    ("sums", "scalars", "text"),
    [
        (
            ("updtae",),
            (),
            "the strategy asks for the sum updtae, this client has update; "
            "install the release that the server runs; did you mean 'update'?",
        ),
        (
            ("update",),
            ("wieght", "zzz"),
            "the strategy asks for the scalar wieght, zzz, this client has weight, steps, clients; "
            "install the release that the server runs; did you mean 'weight'?",
        ),
    ],
)
def test_unknown_sums_are_refused(sums: tuple[str, ...], scalars: tuple[str, ...], text: str) -> None:
    with pytest.raises(WireError) as caught:
        SumReply(sums, scalars)
    assert str(caught.value) == text


def test_the_stack_keeps_the_order() -> None:
    reply = StackReply()
    reply.start(HEAD)
    for by, num_samples in ((1.0, 2), (0.0, 0), (-2.0, 3)):
        reply.add(HEAD, trained(by, 1), num_samples)
    groups = reply.groups()
    assert groups["stack"]["bias"].tolist() == [[1, 1], [0, 0], [-2, -2]]
    assert groups["stack"]["weight"].shape == (3, 2, 2)
    assert groups["stack"]["weight"].dtype == np.float32
    assert groups["weights"]["weight"].tolist() == [2, 0, 3]


def test_an_empty_stack_has_shapes() -> None:
    reply = StackReply()
    reply.start(HEAD)
    assert reply.groups()["stack"]["weight"].shape == (0, 2, 2)
    assert reply.groups()["weights"]["weight"].shape == (0,)


def test_a_stack_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    head = {"weight": np.zeros((10, 1280), dtype=np.float32), "bias": np.zeros(10, dtype=np.float32)}
    check_stack_size(head, 10_000)  # 0.5 GB
    with pytest.raises(WireError) as caught:
        check_stack_size(head, 100_000)
    assert str(caught.value) == (
        "the strategy needs every client's update at once: 100,000 clients x 51,240 bytes = 5,124,000,000 bytes, "
        "more than 1,000,000,000; take a strategy that needs sums only, or fewer clients a round "
        "(server.clients_per_round)"
    )
    monkeypatch.setattr(cohort, "LARGEST_STACK_BYTES", 51_240 * 3)
    check_stack_size(head, 3)
    with pytest.raises(WireError):
        check_stack_size(head, 4)
    check_stack_size(head, 0)
