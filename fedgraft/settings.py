"""What every settings model shares: strict types, no unknown keys, immutable."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A block of settings; unknown keys and ill-typed values are refused, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def named(value: object) -> object:
    """Turn the short form of a choice, a bare string, into `{name: string}`; for a `BeforeValidator`."""
    return {"name": value} if isinstance(value, str) else value
