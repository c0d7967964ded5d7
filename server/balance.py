"""How evenly the work of a simulation falls on its hosts: as predicted when they get their clients, and as done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedgraft.wire.shards import imbalance
from server.roster import Roster


def predicted_line(roster: Roster, num_shards: int) -> str | None:
    """Return a line about how the shards were placed; None where one host has them all."""
    if len(roster.descriptions) < 2:
        return None
    return (
        f"{num_shards} shards on {len(roster.descriptions)} hosts: the busiest is predicted to work "
        f"{predicted_imbalance(roster):.2f} times as long as the mean"
    )


def predicted_imbalance(roster: Roster) -> float:
    """Return the largest over the mean of what the hosts' clients are predicted to cost."""
    return imbalance(np.array(next(iter(roster.descriptions.values())).host_costs))


def balance(roster: Roster, num_shards: int, busy_seconds: Mapping[int, float]) -> dict[str, Any]:
    """Return how many hosts worked on how many shards, and how evenly.

    Args:
        roster: whose clients are where.
        num_shards: lists into which the clients are cut.
        busy_seconds: what each host, by node, spent on its messages since the run was started or resumed.
    """
    seconds = np.array([busy_seconds.get(node, 0.0) for node in sorted(roster.descriptions)])
    return {
        "number": len(seconds),
        "shards": num_shards,
        "predicted_imbalance": round(predicted_imbalance(roster), 4),
        "measured_imbalance": round(imbalance(seconds), 4),
        "busy_seconds": [round(value, 3) for value in seconds.tolist()],
    }


def measured_line(hosts: Mapping[str, Any]) -> str | None:
    """Return a line about how evenly the hosts have worked; None where one did all."""
    if hosts["number"] < 2:
        return None
    longest, mean = max(hosts["busy_seconds"]), sum(hosts["busy_seconds"]) / hosts["number"]
    return (
        f"the busiest of {hosts['number']} hosts worked {hosts['measured_imbalance']:.2f} times as long as the mean "
        f"({longest:.2f} s against {mean:.2f} s)"
    )
