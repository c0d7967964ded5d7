"""What a reply carries of a cohort: sums by hand, the stack in place, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from clients import replies
from clients.replies import StackReply, SumReply, check_stack_size
from clients.training import TrainedClient
from fedgraft.errors import WireError

SHAPES = {"weight": (2, 2), "bias": (2,)}


def trained(by: float, num_steps: int, num_samples: int, turn: int = 0) -> TrainedClient:
    """Return a client whose head moved by `by` everywhere."""
    update = {name: torch.full(shape, by) for name, shape in SHAPES.items()}
    none = [np.zeros(1)] * 4  # losses and scores
    return TrainedClient(np.array([turn]), np.array([num_samples]), np.array([num_steps]), *none, update)


@dataclass(frozen=True)
class Several:
    """A bucket of an engine, by its updates."""

    turns: NDArray[np.int64]
    num_samples: NDArray[np.int64]
    num_steps: NDArray[np.int64]
    update: NDArray[np.float32]
    mean_losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    losses_before: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    losses_after: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    scores_after: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def weighted_sum(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        return {"bias": weights @ self.update}

    def updates(self) -> dict[str, NDArray[np.float32]]:
        return {"bias": self.update}


def test_sums_by_hand() -> None:
    """Three clients of 2, 3 and 0 samples move by 1, -2 and 8: 2 * 1 - 3 * 2 = -4; nobody asks the empty one."""
    reply = SumReply(("update",), ("weight", "steps", "clients"), SHAPES)
    for by, num_steps, num_samples in ((1.0, 4, 2), (-2.0, 5, 3), (8.0, 0, 0)):
        reply.add(trained(by, num_steps, num_samples))
    groups = reply.groups()
    assert set(groups) == {"update"}
    assert groups["update"]["weight"].tolist() == [[-4, -4], [-4, -4]]
    assert groups["update"]["bias"].tolist() == [-4, -4]
    assert all(value.dtype == np.float32 for value in groups["update"].values())
    assert reply.numbers == {"weight": 5, "steps": 9, "clients": 2}


def test_sums_are_added_in_float64() -> None:
    """A large sample count and small updates: added in float32 the small ones would be lost."""
    reply = SumReply(("update",), (), SHAPES)
    for value in (2.0**24, *[0.5] * 4):
        reply.add(trained(value, 1, 1))
    assert reply.totals["update"]["bias"].tolist() == [2**24 + 2] * 2
    assert reply.groups()["update"]["bias"].tolist() == [2**24 + 2] * 2


def test_a_bucket_of_several_clients_is_added_at_once() -> None:
    """Clients of 2 and 3 samples move by (1, 2) and (-1, 0), another of 1 by (4, 4): (2 - 3 + 4, 4 + 4)."""
    bucket = Several(np.array([2, 0]), np.array([2, 3]), np.array([4, 5]), np.array([[1, 2], [-1, 0]], np.float32))
    alone = Several(np.array([3]), np.array([1]), np.array([6]), np.array([[4, 4]], np.float32))
    sums = SumReply(("update",), ("weight", "steps", "clients"), {"bias": (2,)})
    stack = StackReply(4, {"bias": (2,)})
    for reply in (sums, stack):
        reply.add(bucket)
        reply.add(alone)
    assert sums.groups()["update"]["bias"].tolist() == [3, 8]
    assert sums.numbers == {"weight": 6, "steps": 15, "clients": 3}
    assert stack.groups()["stack"]["bias"].tolist() == [[-1, 0], [0, 0], [1, 2], [4, 4]]
    assert stack.groups()["weights"]["weight"].tolist() == [3, 0, 2, 1]


def test_only_what_is_asked_for_is_carried() -> None:
    reply = SumReply((), ("steps",), SHAPES)
    reply.add(trained(1.0, 4, 2))
    assert (reply.groups(), reply.numbers) == ({}, {"steps": 4})


def test_what_is_asked_for_twice_is_added_once() -> None:
    reply = SumReply(("update", "update"), ("weight", "weight"), SHAPES)
    reply.add(trained(1.0, 4, 2))
    assert reply.groups()["update"]["bias"].tolist() == [2, 2]
    assert reply.numbers == {"weight": 2}


def test_a_cohort_in_which_nobody_trains_adds_zeros() -> None:
    reply = SumReply(("update",), ("weight",), SHAPES)
    assert {name: value.shape for name, value in reply.groups()["update"].items()} == {"weight": (2, 2), "bias": (2,)}
    assert not any(value.any() for value in reply.groups()["update"].values())
    assert reply.numbers == {"weight": 0}


@pytest.mark.parametrize(
    ("sums", "scalars", "text"),
    [
        (
            ("updtae",),
            (),
            "the strategy asks for the sum updtae, this client has update, control, normalised_update, fair_update, "
            "near_update; install the release that the server runs; did you mean 'update'?",
        ),
        (
            ("update",),
            ("wieght", "zzz"),
            "the strategy asks for the scalar wieght, zzz, this client has weight, steps, clients, path_length, "
            "square_norm, fair_weight, fair_curvature, near_weight; "
            "install the release that the server runs; did you mean 'weight'?",
        ),
    ],
)
def test_unknown_sums_are_refused(sums: tuple[str, ...], scalars: tuple[str, ...], text: str) -> None:
    with pytest.raises(WireError) as caught:
        SumReply(sums, scalars, SHAPES)
    assert str(caught.value) == text


def test_the_stack_has_the_order_of_the_request() -> None:
    """Whatever the order in which clients train; the second has no samples and never trains."""
    reply = StackReply(3, SHAPES)
    for by, num_samples, turn in ((-2.0, 3, 2), (1.0, 2, 0)):
        reply.add(trained(by, 1, num_samples, turn))
    groups = reply.groups()
    assert groups["stack"]["bias"].tolist() == [[1, 1], [0, 0], [-2, -2]]
    assert groups["stack"]["weight"].shape == (3, 2, 2)
    assert groups["stack"]["weight"].dtype == np.float32
    assert groups["weights"]["weight"].tolist() == [2, 0, 3]


def test_an_empty_stack_has_shapes() -> None:
    reply = StackReply(0, SHAPES)
    assert reply.groups()["stack"]["weight"].shape == (0, 2, 2)
    assert reply.groups()["weights"]["weight"].shape == (0,)


def test_a_stack_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    head = {"weight": (10, 1280), "bias": (10,)}
    check_stack_size(head, 10_000)  # 0.5 GB
    with pytest.raises(WireError) as caught:
        check_stack_size(head, 100_000)
    assert str(caught.value) == (
        "the strategy needs every client's update at once: 100,000 clients x 51,240 bytes = 5,124,000,000 bytes, "
        "more than 1,000,000,000; take a strategy that needs sums only, or fewer clients a round "
        "(server.clients_per_round)"
    )
    monkeypatch.setattr(replies, "LARGEST_STACK_BYTES", 51_240 * 3)
    check_stack_size(head, 3)
    with pytest.raises(WireError):
        StackReply(4, head)
    check_stack_size(head, 0)
