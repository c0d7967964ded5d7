"""Numbers that are finite and yet too large: one site could outweigh all others by them.

Between institutions only; robust strategies are the defence against values that look right and are not.
"""

from __future__ import annotations

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


def check_norms(reply: Message, largest: float | None) -> None:
    """Refuse an answer to `train` whose sums, over their weight, or single updates are too large.

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
        if name not in NOT_ADDED and weight > 0:
            norms.append(norm(arrays.values()) / weight)
    if norms and max(norms) > largest:
        raise WireError(f"its norm is {max(norms):.6g}, more than {largest:g} (server.largest_update_norm)")
