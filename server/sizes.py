"""Numbers that are finite and yet too large: one site could outweigh all others by them.

Between institutions only; robust strategies are the defence against values that look right and are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from flwr.app import Message

from fedgraft.errors import WireError
from fedgraft.norms import norm, row_norms
from fedgraft.wire.records import unpack
from fedgraft.wire.requests import TrainReply

WEIGHTS: Mapping[str, str] = {"fair_update": "fair_weight", "near_update": "near_weight"}
"""The scalar that a sum is weighted by; all others by the number of samples, `weight`."""

NOT_ADDED = frozenset({"clients", "metrics", "personal", "weights", "stack"})
"""Groups of a reply that are no sums of updates."""

ROUNDING = 1e-6


def check_weight(weight: float, num_samples: int, what: str) -> None:
    """Refuse clients that claim more training samples than they were described with.

    Raises:
        WireError: names both numbers.
    """
    if not 0 <= weight <= num_samples * (1 + ROUNDING):
        raise WireError(f"{what} is weighted with {weight:g} training samples, described were {num_samples:,}")


def check_weights(scalars: Mapping[str, float], num_samples: int, smoothing: float, what: str) -> None:
    """Refuse weights of sums that no clients with the described training samples can have.

    `near_weight` is `sum_k n_k / max(smoothing, distance)`, so it has a bound as well. `fair_weight` is
    `sum_k n_k F_k^q` and has none, since a loss has none; it can't be negative.

    Args:
        scalars: of one reply.
        num_samples: training samples that its clients were described with.
        smoothing: of the request.
        what: the reply, for the error.

    Raises:
        WireError: names the weight and its bound.
    """
    if "weight" in scalars:
        check_weight(scalars["weight"], num_samples, what)
    for name in WEIGHTS.values():
        largest = num_samples / smoothing if name == "near_weight" and smoothing > 0 else math.inf
        weight = scalars.get(name, 0.0)
        if not 0 <= weight <= largest * (1 + ROUNDING):
            raise WireError(
                f"{what} carries {name} {weight:g}, expected 0 to {largest:g} with {num_samples:,} training samples"
            )


def check_norms(reply: Message, largest: float | None) -> None:
    """Refuse an answer to `train` whose sums, over their weight, or single updates are too large.

    A sum with the weight 0 is infinitely large, unless it is 0 as well, as of clients without samples: the others'
    weight would be what it is divided by.

    Args:
        reply: one that can be combined.
        largest: Euclidean norm; None: not limited.

    Raises:
        WireError: says how large it is.
    """
    if largest is None:
        return
    body, groups = unpack(reply.content, TrainReply, "reply to train")
    norms = row_norms(groups.get("stack", {}).values())
    for name, arrays in groups.items():
        weight = body.scalars.get(WEIGHTS.get(name, "weight"), 0.0)
        if name not in NOT_ADDED:
            norms.append(_over(norm(arrays.values()), weight))
    if norms and max(norms) > largest:
        raise WireError(f"its norm is {max(norms):.6g}, more than {largest:g} (server.largest_update_norm)")


def _over(size: float, weight: float) -> float:
    return size / weight if weight > 0 else math.inf if size else 0.0
