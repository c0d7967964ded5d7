"""What every settings model shares: strict types, no unknown keys, immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A block of settings; unknown keys and ill-typed values are refused, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


def named(value: object) -> object:
    """Turn the short form of a choice, a bare string, into `{name: string}`; for a `BeforeValidator`."""
    return {"name": value} if isinstance(value, str) else value


@dataclass(frozen=True)
class PathMarker:
    """Marks a text field as a path of this machine, so that a scenario's relative paths can be made absolute.

    A relative path is taken from the folder of the scenario file that names it; `~` is the home folder.
    """

    words: tuple[str, ...] = ()
    """Values that are words, not paths, and are left as they are (`pretrained`, `random`)."""


LocalPath = Annotated[str, PathMarker()]
"""The type of a settings field that holds a path; with words: `Annotated[str, PathMarker(words=("random",))]`."""
