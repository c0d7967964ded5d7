"""How features are computed and kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from fedgraft.settings import Settings


class FeatureSettings(Settings):
    """The feature store's part of a scenario."""

    dtype: Literal["float32", "float16"] = "float32"
    """How features are stored; `float16` halves the disk and the memory traffic and keeps about three digits."""

    batch_size: int = Field(default=64, ge=1, le=4096)
    """Inputs that go through the backbone at once, at most; large images on a CPU go in smaller batches, which is faster."""  # noqa: E501

    activations_limit_gb: PositiveFloat = 20.0
    """Un-pooled activations that training past a cut (`unfreeze`) may put into the store for one cut, GB."""
