"""What each source of backbones hands over to the registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from fedgraft.models.cuts import Architecture
from fedgraft.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Built:
    """A model as its library made it, and how to cut and feed it.

    Attributes:
        model: The whole model, classifier included.
        architecture: Its stages.
        preprocessing: What its weights were trained with.
        files: The files that its weights came from, so that a changed file is noticed.
        fixed_input_size: The only input size that it takes, px; None: any that is large enough.
    """

    model: nn.Module
    architecture: Architecture
    preprocessing: Preprocessing
    files: tuple[Path, ...] = ()
    fixed_input_size: int | None = None
