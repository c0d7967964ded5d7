"""How a closed form makes its head of sums, as a value that can travel: a host makes heads without a client by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.class_means import class_means, discriminant, nearest_mean
from fedgraft.closed_form import regression_moments, ridge

if TYPE_CHECKING:
    from fedgraft.models.losses import Task

Form = Literal["ridge", "nearest_mean", "mean_directions", "discriminant"]

PARAMETERS: Mapping[Form, tuple[str, ...]] = {
    "ridge": ("penalty", "bias"),
    "nearest_mean": ("temperature",),
    "mean_directions": (),
    "discriminant": ("shrinkage",),
}


@dataclass(frozen=True)
class Recipe:
    """Which closed form, and its numbers.

    Attributes:
        form: `ridge`, `nearest_mean`, `mean_directions` (the weight of a cosine head) or `discriminant`.
        parameters: what `PARAMETERS` names for it; `bias` is 0 or 1.
        temperature: what the head's values are divided by in the end.
    """

    form: Form
    parameters: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 1.0

    @property
    def second_moment(self) -> Literal["none", "shared"]:
        """Which second moment it needs."""
        return "shared" if self.form in ("ridge", "discriminant") else "none"

    def head(self, statistics: Mapping[str, NDArray[Any]], task: Task) -> dict[str, NDArray[np.float64]]:
        """Return the head's arrays, as far as the form makes them.

        Args:
            statistics: sums as `query.statistics` answers them.
            task: what the targets are.

        Raises:
            ValueError: these sums make no such head.
        """
        return {name: value / self.temperature for name, value in self._values(statistics, task).items()}

    def _values(self, statistics: Mapping[str, NDArray[Any]], task: Task) -> dict[str, NDArray[np.float64]]:
        numbers = self.parameters
        if self.form == "ridge":
            moments = regression_moments(statistics, task)
            return ridge(moments, numbers["penalty"], bias=bool(numbers["bias"]))
        if self.form == "discriminant":
            return discriminant(statistics, numbers["shrinkage"])
        if self.form == "nearest_mean":
            return nearest_mean(statistics, numbers["temperature"])
        return {"weight": class_means(statistics)[0]}
