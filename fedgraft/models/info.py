"""What a backbone answers about itself, as plain values that travel as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fedgraft.kinds import Kind
from fedgraft.models.preprocessing import NoPreprocessing, Preprocessing, digest_of, preprocessing_from_json

# Raised when features computed by an older release of this package must not be used again.
FEATURES_SCHEMA = 1


@dataclass(frozen=True)
class BackboneInfo:
    """A backbone with its cut chosen.

    Attributes:
        name: As in the settings.
        cuts: Ordered from input to output; the last is `penultimate`.
        cut: The chosen one.
        feature_dim: Length of the pooled vector at the cut; 0 for `identity` (the source decides).
        preprocessing: What the inputs need; it tells their kind.
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

    @property
    def takes(self) -> Kind:
        """The kind of its inputs."""
        return self.preprocessing.takes

    def key(self) -> str:
        """Return the digest of everything that decides the features of an input."""
        parts = (self.name, self.cut, self.preprocessing.key(), self.weights_digest, self.pooling, self.library)
        return digest_of([FEATURES_SCHEMA, *parts])

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "preprocessing": self.preprocessing.as_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BackboneInfo:
        """Return the info that `as_json` described.

        Raises:
            TypeError, KeyError: a field is missing or unknown.
        """
        steps = value["preprocessing"]
        # Older descriptions of `identity` speak of images of no size.
        preprocessing = NoPreprocessing() if value["name"] == "identity" else preprocessing_from_json(steps)
        return cls(**{**value, "cuts": tuple(value["cuts"]), "preprocessing": preprocessing})
