"""A small scenario for each strategy of the registry, in which clients lie, stay away, join late and lack classes."""

from __future__ import annotations

from typing import Any

from small_scenarios import small

from scenarios.schema import Scenario
from strategies.registry import STRATEGIES

ATTACKS: tuple[dict[str, Any], ...] = (
    {"name": "sign-flip", "scale": 3.0},
    {"name": "gaussian-noise", "standard_deviation": 0.1},
    {"name": "label-flip"},
    {"name": "a-little-is-enough", "deviations": 1.0},
    {"name": "scaled-update", "scale": 3.0},
)
PARAMETERS: dict[str, dict[str, Any]] = {
    "flower:<Class>": {"name": "flower:FedAdam", "parameters": {"eta": 0.05}},
    "ridge": {"relative_penalties": [1e-3, 1e-1, 10.0]},
    "ccvr": {"samples_per_class": 20, "steps": 20},
    "fedpft": {"steps": 20},
}
AVAILABILITY = {
    "dropout": 0.25,
    "late_fraction": 0.25,
    "last_joins_in": 3,
    "seconds_spread": 0.5,
    "over_selection": 0.1,
}
NAMES = tuple(STRATEGIES)


def troubled(name: str, **changes: Any) -> Scenario:
    """Return three rounds of 12 of 16 clients, of which from round 2 on (closed forms: at once) a quarter lies."""
    kind = STRATEGIES[name]
    blocks: dict[str, Any] = {
        "strategy": {"name": name, **PARAMETERS.get(name, {})},
        "data.partition.clients": 16,
        "server.rounds": 3,
        "server.clients_per_round": 12,
        "shards": 5,
    }
    if kind.heads == ("adapter",):
        blocks["head"] = {"name": "adapter", "rank": 3}
    if name != "centralised":  # it has no clients that could lie or stay away
        attack = {"name": "label-flip"} if kind.most_rounds == 1 else ATTACKS[NAMES.index(name) % len(ATTACKS)]
        blocks["attack"] = {"fraction": 0.25, "from_round": 1 if kind.most_rounds == 1 else 2, **attack}
        blocks["availability"] = AVAILABILITY
    return small(**blocks, **changes)
