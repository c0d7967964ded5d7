"""Log-mel bands of a sound, which learned nothing: what any other backbone of sounds must beat.

Decibels in 40 mel bands, relative to the mean of the sound, so that loudness plays no part; what is 80 dB below the
loudest counts as that. The sound is cut into eight parts of equal length, whatever that is, and each band averaged over
each: 320 features. The zeros after the end of a sound are no part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedgraft.models.cuts import PENULTIMATE, Architecture, Stage
from fedgraft.models.mel import NUM_BANDS, MelSpectrogram, lengths
from fedgraft.models.preprocessing import SoundPreprocessing
from fedgraft.models.sources import Built

NUM_PARTS = 8
SAMPLE_RATE = 16_000
SECONDS = 2.0
FLOOR = 1e-8
"""Of the power of the loudest band: 80 dB below it."""
SILENCE = 1e-20
"""Power that is taken for none; sounds of nothing but zeros have it everywhere."""


class LogMel(nn.Module):
    """From a sound to its log-mel bands.

    Args:
        steps: how sounds come.
    """

    def __init__(self, steps: SoundPreprocessing) -> None:
        super().__init__()
        self.mel = MelSpectrogram(steps.sample_rate, steps.num_values)

    def forward(self, sounds: Tensor) -> tuple[Tensor, Tensor]:
        """Return log power `(N, NUM_BANDS, num_frames)`, of mean 0 within each sound, and the frames of each, `(N,)`.

        Frames after the end of a sound are zero.
        """
        power = self.mel(sounds)
        floor = (power.amax(dim=(1, 2), keepdim=True) * FLOOR).clamp_min(SILENCE)
        logs = torch.maximum(power, floor).log()
        num_frames = (torch.div(lengths(sounds) - 1, self.mel.hop, rounding_mode="floor") + 1)[:, None, None]
        inside = torch.arange(self.mel.num_frames, device=sounds.device) < num_frames
        mean = (logs * inside).sum(dim=(1, 2), keepdim=True) / (num_frames * NUM_BANDS)
        return (logs - mean) * inside, num_frames[:, 0, 0]


class PooledLogMel(nn.Module):
    """Log-mel bands of parts of a sound, and the classifier that every backbone carries: one output of zeros.

    Args:
        steps: how sounds come.
    """

    def __init__(self, steps: SoundPreprocessing) -> None:
        super().__init__()
        self.front = LogMel(steps)
        self.classifier = nn.Linear(NUM_BANDS * NUM_PARTS, 1)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def parts(self, sounds: Tensor) -> Tensor:
        """Return the mean of each band over each part, `(N, NUM_BANDS, 1, NUM_PARTS)`."""
        logs, num_frames = self.front(sounds)
        parts: Tensor = logs @ _shares(num_frames, logs.shape[2]).transpose(1, 2)
        return parts[:, :, None]

    def forward(self, sounds: Tensor) -> Tensor:
        """Return the classifier's zeros."""
        output: Tensor = self.classifier(torch.flatten(self.parts(sounds), 1))
        return output


def _shares(num_frames: Tensor, most: int) -> Tensor:
    """Return what each frame adds to the mean over each part, `(N, NUM_PARTS, most)`: a border may cut a frame."""
    borders = torch.arange(NUM_PARTS + 1, device=num_frames.device) * num_frames[:, None] / NUM_PARTS
    first, last = borders[:, :-1, None], borders[:, 1:, None]
    frames = torch.arange(most, device=num_frames.device, dtype=torch.float32)
    inside = (torch.minimum(frames + 1, last) - torch.maximum(frames, first)).clamp_min(0)
    return inside / (last - first)


def build(sample_rate: int | None, seconds: float | None) -> Built:
    """Return the backbone of sounds of this rate, Hz, and length."""
    steps = SoundPreprocessing(sample_rate or SAMPLE_RATE, seconds or SECONDS)
    stages = (Stage("parts", (), _parts), Stage(PENULTIMATE, (), _flattened))
    return Built(
        model=PooledLogMel(steps),
        architecture=Architecture(stages, Stage("classifier", ("classifier",)), own_pooling="own"),
        preprocessing=steps,
    )


def _parts(model: nn.Module, sounds: Tensor) -> Tensor:
    parts: Tensor = model.parts(sounds)  # type: ignore[operator]
    return parts


def _flattened(_: nn.Module, parts: Tensor) -> Tensor:
    return torch.flatten(parts, 1)
