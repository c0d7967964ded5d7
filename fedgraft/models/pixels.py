"""The pixels themselves as features: what a source must beat to be of use to a task.

A picture is made small (16 x 16 by default, 768 features) and its red, green and blue lie one after another. Nothing
was learned, so there are no weights; the classifier that every backbone carries is one output of zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedgraft.models.cuts import PENULTIMATE, Architecture, Stage
from fedgraft.models.preprocessing import ImagePreprocessing
from fedgraft.models.sources import Built

INPUT_SIZE = 16
"""px; with 64 the second moment of 12,288 features would be 1.2 GB."""


class Pixels(nn.Module):
    """Passes pictures on as vectors.

    Args:
        input_size: height and width, px.
    """

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(3 * input_size**2, 1)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the classifier's zeros."""
        output: Tensor = self.classifier(torch.flatten(images, 1))
        return output


def build(input_size: int | None) -> Built:
    """Return the backbone of pictures of this size, px."""
    size = input_size or INPUT_SIZE
    stages = (Stage(PENULTIMATE, (), _flattened),)
    return Built(
        model=Pixels(size),
        architecture=Architecture(stages, Stage("classifier", ("classifier",)), own_pooling="own"),
        preprocessing=ImagePreprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear"),
        fixed_input_size=size,
    )


def _flattened(_: nn.Module, images: Tensor) -> Tensor:
    return torch.flatten(images, 1)
