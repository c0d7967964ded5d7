"""Every strategy by name; a new one is one line in `AnyStrategy`."""

from __future__ import annotations

from typing import Annotated, Any, Union

from pydantic import BeforeValidator, Discriminator, Tag

from fedgraft.settings import named
from strategies.base import Strategy
from strategies.fedavg import FedAvg
from strategies.flower import FlowerStrategy

STRATEGIES: dict[str, type[Strategy]] = {
    "fedavg": FedAvg,
    "flower:<Class>": FlowerStrategy,
}


def tag_of(value: Any) -> str | None:
    """Return the registry's key for a strategy block: its name, or `flower:<Class>` for Flower's own."""
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "flower:<Class>" if isinstance(name, str) and name.startswith("flower:") else name


StrategySettings = Annotated[
    Union[tuple(Annotated[strategy, Tag(tag)] for tag, strategy in STRATEGIES.items())],  # noqa: UP007 - built at run time
    Discriminator(tag_of),
    BeforeValidator(named),
]
