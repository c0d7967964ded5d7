"""From sounds of any length to what a backbone expects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.sounds import resampled

if TYPE_CHECKING:
    from torch import Tensor

    from fedgraft.models.preprocessing import SoundPreprocessing


def filled(sounds: tuple[list[NDArray[np.float32]], int], steps: SoundPreprocessing) -> Tensor:
    """Return sounds `(n, num_values)` at the rate of the steps, cut or filled up with zeros at their ends.

    Args:
        sounds: `(num_values_i,)` each, and their rate, Hz.
        steps: what they are brought to.
    """
    import torch

    waves, sample_rate = sounds
    result = np.zeros((len(waves), steps.num_values), dtype=np.float32)
    for row, wave in zip(result, waves, strict=True):
        ready = resampled(wave, sample_rate, steps.sample_rate)[: len(row)]
        row[: len(ready)] = ready
    return torch.from_numpy(result)
