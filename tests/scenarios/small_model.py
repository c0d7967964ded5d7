"""A small scenario model that has every kind of key once; it stands still while the real one grows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from fedgraft.settings import LocalPath, PathMarker, Settings, named, setting_fault


class Slow(Settings):
    """Walk."""

    name: Literal["slow"] = "slow"
    """Walk."""
    speed: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Metres a second."""
    rests: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Minutes of each rest."""


class Fast(Settings):
    """Ride."""

    name: Literal["fast"] = "fast"
    """Ride."""
    power: Annotated[int, Field(examples=[250])]
    """Watts."""
    boost: float | Literal["auto"] = "auto"
    """A factor, or what the ride needs."""


class Guided(Settings):
    """Follow somebody."""

    name: Annotated[str, Field(pattern=r"^guide:[a-z]+$", examples=["guide:anna"])]
    """`guide:` and a name."""


def _tag(value: object) -> str | None:
    name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
    return "guide:<name>" if isinstance(name, str) and name.startswith("guide:") else name


Gait = Annotated[Slow | Fast, Field(discriminator="name"), BeforeValidator(named)]
Lead = Annotated[
    Annotated[Slow, Tag("slow")] | Annotated[Guided, Tag("guide:<name>")],
    Discriminator(_tag),
    BeforeValidator(named),
]


class Places(Settings):
    """Where."""

    map: LocalPath | None = None
    """A file."""
    guide: Annotated[str, PathMarker(words=("none",))] = "none"
    """A file, or none."""
    corner: tuple[float, float] | None = None
    """Two numbers."""
    labels: dict[str, int] = Field(default_factory=dict)
    """Free names."""


class Trip(Settings):
    """A trip."""

    name: str
    """What it is called."""
    days: Annotated[int, Field(ge=1)] = 1
    """How long."""
    nights: int = 0
    """At most the days."""
    sure: bool = False
    """Whether."""
    gait: Gait = Slow()
    """How."""
    lead: Lead = Slow()
    """Who."""
    places: Places = Places()
    """Where."""

    @model_validator(mode="after")
    def _nights(self) -> Trip:
        if self.nights > self.days:
            raise setting_fault("nights", f"came {self.nights}; expected at most days ({self.days})")
        if self.days == 13:
            raise ValueError("thirteen days bring bad luck")
        return self
