"""What every settings model shares: strict types, no unknown keys, immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Settings(BaseModel):
    """A block of settings; unknown keys, ill-typed and infinite values are refused, instances are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def named(value: object) -> object:
    """Turn the short form of a choice, a bare string, into `{name: string}`; for a `BeforeValidator`.

    Lists become tuples: what such a validator returns is checked as Python, where a strict tuple is no list.
    """
    return {"name": value} if isinstance(value, str) else _with_tuples(value)


def _with_tuples(value: object) -> object:
    if isinstance(value, dict):
        return {key: _with_tuples(entry) for key, entry in value.items()}
    return tuple(_with_tuples(entry) for entry in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class PathMarker:
    """Marks a text field as a path of this machine, so that a scenario's relative paths can be made absolute.

    A relative path is taken from the folder of the scenario file that names it; `~` is the home folder. The
    default of such a field is None or a word, since a default stands in no file.
    """

    words: tuple[str, ...] = ()
    """Values that are words, not paths, and are left as they are (`pretrained`, `random`)."""


@dataclass(frozen=True)
class LaidOver:
    """Marks a block that is laid over the whole file, as a file is that extends it: what it leaves out stays.

    So none of its blocks means the default one for want of a name, and a bare text stands for nothing.
    """


LocalPath = Annotated[str, PathMarker()]
"""The type of a field that holds a path; with words: `Annotated[str, PathMarker(words=("random",))]`."""


def setting_fault(key: str, message: str) -> PydanticCustomError:
    """Return the error that a model validator raises to point at a key below its own block.

    `raise setting_fault("optimizer.learning_rate", "came 3; ...")` in the validator of `train` is reported at
    `train.optimizer.learning_rate`, in the line of that key. A plain `ValueError` points at the block.
    """
    return PydanticCustomError("setting", "{message}", {"key": key, "message": message})
