"""How an input of each kind becomes what a backbone takes, as plain values that travel as JSON."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fedgraft.kinds import Kind

if TYPE_CHECKING:
    from torch import Tensor


def digest_of(value: object) -> str:
    """Return the sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Preprocessing(ABC):
    """What is done to inputs of one kind before they meet a backbone.

    Attributes:
        takes: the kind of the inputs.
    """

    takes: ClassVar[Kind]

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input as the backbone takes it; of inputs of unequal length, that of the longest."""

    @abstractmethod
    def words(self) -> str:
        """Return it for a person who lists the feature store."""

    def example(self, count: int = 1) -> Tensor:
        """Return inputs such as the backbone takes, `(count, *input_shape)`: zeros, by which shapes are found out."""
        import torch

        return torch.zeros(count, *self.input_shape)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a batch of inputs has a shape that the backbone takes."""
        return shape[1:] == self.input_shape

    def key(self) -> str:
        """Return the digest of all of it."""
        return digest_of(asdict(self))

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"takes": self.takes, **asdict(self)}


@dataclass(frozen=True)
class ImagePreprocessing(Preprocessing):
    """An image is resized to `(input_size, input_size)` px, scaled to 0..1, normalised.

    `mean` and `std` are of red, green and blue in 0..1; `interpolation` is `bilinear` or `bicubic`.
    """

    takes: ClassVar[Kind] = "images"
    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(3, input_size, input_size)`."""
        return (3, self.input_size, self.input_size)

    def words(self) -> str:
        """Return it for a person who lists the feature store."""
        return f"{self.input_size} px, {self.interpolation}, mean {self.mean}, std {self.std}"


@dataclass(frozen=True)
class SoundPreprocessing(Preprocessing):
    """A sound is resampled, and cut or filled up with zeros at its end.

    Attributes:
        sample_rate: Hz.
        seconds: that a backbone hears.
    """

    takes: ClassVar[Kind] = "sounds"
    sample_rate: int
    seconds: float

    @property
    def num_values(self) -> int:
        """Length of a sound as the backbone takes it."""
        return round(self.sample_rate * self.seconds)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(num_values,)`."""
        return (self.num_values,)

    def words(self) -> str:
        """Return it for a person who lists the feature store."""
        return f"{self.seconds:g} s at {self.sample_rate} Hz"


@dataclass(frozen=True)
class NoPreprocessing(Preprocessing):
    """Ready features are taken as they are; how long they are, the source decides."""

    takes: ClassVar[Kind] = "features"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Nothing is known."""
        return ()

    def words(self) -> str:
        """Return it for a person who lists the feature store."""
        return "none"


@dataclass(frozen=True)
class TextPreprocessing(Preprocessing):
    """A text is cut into tokens, of which the first `max_length` are read; `tokenizer` is the tokenizer's digest."""

    takes: ClassVar[Kind] = "texts"
    max_length: int
    tokenizer: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """`(max_length, 2)`: each token's number, and whether there is one."""
        return (self.max_length, 2)

    def words(self) -> str:
        """Return it for a person who lists the feature store."""
        return f"up to {self.max_length} tokens of tokenizer {self.tokenizer[:12]}"

    def example(self, count: int = 1) -> Tensor:
        """Return texts of the longest kind, `(count, max_length, 2)`: the token 1, over and over."""
        import torch

        return torch.ones(count, *self.input_shape, dtype=torch.int64)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a batch has the shape `(N, T, 2)` with at most `max_length` tokens."""
        return len(shape) == 3 and shape[2] == 2 and 0 < shape[1] <= self.max_length


_CLASSES: dict[str, type[Preprocessing]] = {
    "images": ImagePreprocessing,
    "features": NoPreprocessing,
    "sounds": SoundPreprocessing,
    "texts": TextPreprocessing,
}


def preprocessing_from_json(value: Mapping[str, Any]) -> Preprocessing:
    """Return what `as_json` described; a description without a kind is of images.

    Raises:
        TypeError, KeyError: a field is missing or unknown.
    """
    fields = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items() if name != "takes"}
    return _CLASSES[value.get("takes", "images")](**fields)
