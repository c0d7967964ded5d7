"""A small convolutional base over log-mel bands, for recordings of words and other short sounds.

Log-mel bands of variance 1 within the sound, three convolutions of stride 2 with group norm (which, unlike batch norm,
is the same for everybody's data), and the largest value over time of each channel and height: 320 features of 28,000
parameters. No weights come with it: train it on owners who are no clients, as docs/speech.md shows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedgraft.errors import ModelError
from fedgraft.models.cuts import PENULTIMATE, Architecture, Stage
from fedgraft.models.log_mel import SAMPLE_RATE, SECONDS, LogMel
from fedgraft.models.mel import NUM_BANDS
from fedgraft.models.preprocessing import SoundPreprocessing
from fedgraft.models.sources import Built

CHANNELS = (16, 32, 64)
GROUPS = 4
CUT = "log-mel"


class LogMelCnn(nn.Module):
    """From sounds to one vector each, and a classifier of one output.

    Args:
        steps: how sounds come.
    """

    def __init__(self, steps: SoundPreprocessing) -> None:
        super().__init__()
        self.front = LogMel(steps)
        self.blocks = nn.ModuleList()
        before, height = 1, NUM_BANDS
        for number, channels in enumerate(CHANNELS):
            size = 5 if number == 0 else 3
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(before, channels, size, stride=2, padding=size // 2),
                    nn.GroupNorm(GROUPS, channels),
                    nn.ReLU(),
                )
            )
            before, height = channels, -(-height // 2)
        self.classifier = nn.Linear(before * height, 1)

    def bands(self, sounds: Tensor) -> Tensor:
        """Return log-mel bands as channels, `(N, NUM_BANDS, 1, num_frames)`, of mean 0 and variance 1 in each sound."""
        logs, num_frames = self.front(sounds)
        variance = logs.square().sum(dim=(1, 2)) / (num_frames * NUM_BANDS)
        bands: Tensor = logs / (variance + 1e-5).sqrt()[:, None, None]
        return bands[:, :, None]

    def forward(self, sounds: Tensor) -> Tensor:
        """Return the classifier's output, `(N, 1)`."""
        x = self.bands(sounds).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        output: Tensor = self.classifier(_largest(self, x))
        return output


def build(pretrained: bool, sample_rate: int | None, seconds: float | None) -> Built:
    """Return the base for sounds of this rate, Hz, and length.

    Raises:
        ModelError: pretrained weights are asked for.
    """
    if pretrained:
        raise ModelError(
            "log-mel-cnn comes without weights: set backbone.weights to the file of a run that trained it "
            "(fedgraft export RUN --to base.safetensors; docs/speech.md), or to random and train it with unfreeze"
        )
    steps = SoundPreprocessing(sample_rate or SAMPLE_RATE, seconds or SECONDS)
    stages = (
        Stage(CUT, (), _bands),
        Stage("blocks.0", ("blocks.0",), _first),
        *(Stage(f"blocks.{number}", (f"blocks.{number}",)) for number in range(1, len(CHANNELS))),
        Stage(PENULTIMATE, (), _largest),
    )
    return Built(
        model=LogMelCnn(steps),
        architecture=Architecture(stages, Stage("classifier", ("classifier",)), own_pooling="own"),
        preprocessing=steps,
    )


def _bands(model: nn.Module, sounds: Tensor) -> Tensor:
    bands: Tensor = model.bands(sounds)  # type: ignore[operator]
    return bands


def _first(model: nn.Module, bands: Tensor) -> Tensor:
    """Make height of the bands."""
    output: Tensor = model.get_submodule("blocks.0")(bands.transpose(1, 2))
    return output


def _largest(_: nn.Module, x: Tensor) -> Tensor:
    return torch.flatten(x.amax(dim=3), 1)
