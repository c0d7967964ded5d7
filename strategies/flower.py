"""Any strategy class of Flower, by name: `strategy: {name: "flower:FedAdam", parameters: {eta: 0.1}}`.

This file holds the settings only. The server's adapter unpacks the replies, one message a client, and calls
the class's own `aggregate_train`; so the numbers are Flower's.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from strategies.base import Strategy


class FlowerStrategy(Strategy):
    """A strategy class of `flwr.serverapp.strategy`, called with unpacked replies."""

    reply: ClassVar[Literal["sum", "stack"]] = "stack"

    name: Annotated[str, Field(pattern=r"^flower:[A-Za-z][A-Za-z0-9_]*$")]
    """`flower:` and the name of a class of flwr.serverapp.strategy."""
    parameters: dict[str, bool | int | float] = Field(default_factory=dict)
    """Keyword arguments of the class, e.g. `{eta: 0.1, beta_1: 0.9}`."""
