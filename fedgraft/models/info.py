"""What a backbone answers about itself, as plain values that travel as JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

# Raised when features computed by an older release of this package must not be used again.
FEATURES_SCHEMA = 1


def digest_of(value: object) -> str:
    """Return the sha256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an input: resized to `(input_size, input_size)` px, scaled to 0..1, normalised.

    `mean` and `std` are of red, green and blue in 0..1; `interpolation` is `bilinear` or `bicubic`.
    """

    input_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    def key(self) -> str:
        """Return the digest of all of it."""
        return digest_of(asdict(self))


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone with its cut chosen.

    Attributes:
        name: As in the settings.
        cuts: Ordered from input to output; the last is `penultimate`.
        cut: The chosen one.
        feature_dim: Length of the pooled vector at the cut; 0 for `identity` (the source decides).
        preprocessing: What the images need.
        weights_digest: sha256 of all parameters and buffers; empty for `identity`.
        pooling: `mean`, `class_token`, or `own` (the model's own head pools), never `auto`.
        num_parameters: Of the whole model, its classifier included.
        library: Whose code runs it, with the version; empty for `identity`.
    """

    name: str
    cuts: tuple[str, ...]
    cut: str
    feature_dim: int
    preprocessing: Preprocessing
    weights_digest: str
    pooling: str
    num_parameters: int
    library: str = ""

    def key(self) -> str:
        """Return the digest of everything that decides the features of an image."""
        parts = (self.name, self.cut, self.preprocessing.key(), self.weights_digest, self.pooling, self.library)
        return digest_of([FEATURES_SCHEMA, *parts])

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BackboneInfo:
        """Return the info that `as_json` described.

        Raises:
            TypeError, KeyError: a field is missing or unknown.
        """
        steps = value["preprocessing"]
        preprocessing = Preprocessing(**{**steps, "mean": tuple(steps["mean"]), "std": tuple(steps["std"])})
        return cls(**{**value, "cuts": tuple(value["cuts"]), "preprocessing": preprocessing})
