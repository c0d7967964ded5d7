"""Settings of the loss: what training minimises and evaluation reports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from fedgraft.settings import Settings, named


class AutoLoss(Settings):
    """Whatever fits the data's targets."""

    name: Literal["auto"] = "auto"
    """`softmax` for classes, `sigmoid` for several labels, `squared` for real numbers."""


class SoftmaxLoss(Settings):
    """Cross-entropy of the softmax; targets are classes."""

    name: Literal["softmax"] = "softmax"
    """Cross-entropy of the softmax; targets are classes."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all classes, in training only."""
    class_weights: dict[str, PositiveFloat] | tuple[PositiveFloat, ...] | None = None
    """Weights of the classes in training: `{label: weight}`, others 1, or a list; a batch's mean is weighted."""


class SigmoidLoss(Settings):
    """Binary cross-entropy, averaged over labels; targets are classes or several labels."""

    name: Literal["sigmoid"] = "sigmoid"
    """Binary cross-entropy of each output's sigmoid, averaged over the outputs."""


class SquaredLoss(Settings):
    """Half the squared error, summed over outputs; targets are real numbers, or classes as one-hot rows."""

    name: Literal["squared"] = "squared"
    """Half the squared error, summed over the outputs; classes count as one-hot rows, labels as -1 and 1."""


LossSettings = Annotated[
    AutoLoss | SoftmaxLoss | SigmoidLoss | SquaredLoss, Field(discriminator="name"), BeforeValidator(named)
]
