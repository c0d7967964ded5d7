"""Mel spectrograms of sounds as a module: convolutions and products only, so that it exports like any other layer.

The power spectrum of a window is a convolution with its cosines and sines. Bands are triangles that overlap by half, on
the mel scale of Slaney's Auditory Toolbox (1998), linear below 1 kHz and logarithmic above, each of area 1: what
librosa and others mean by mel bands.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.01
NUM_BANDS = 40

_LINEAR_HZ = 200 / 3  # of a mel below the break
_BREAK_HZ = 1000.0
_LOG_STEP = np.log(6.4) / 27  # of a mel above it


class MelSpectrogram(nn.Module):
    """Power in mel bands of Hann windows of 25 ms, each 10 ms, the first centred on the first value.

    Args:
        sample_rate: of the sounds, Hz.
        num_values: length of a sound; shorter ones end in zeros.
    """

    waves: Tensor
    bands: Tensor

    def __init__(self, sample_rate: int, num_values: int) -> None:
        super().__init__()
        self.window = round(WINDOW_SECONDS * sample_rate)
        self.hop = round(HOP_SECONDS * sample_rate)
        self.num_frames = num_values // self.hop + 1
        frequencies = np.arange(self.window // 2 + 1)
        angles = 2 * np.pi * frequencies[:, None] * np.arange(self.window) / self.window
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        waves = np.concatenate([np.cos(angles), np.sin(angles)]) * hann
        bands = mel_bands(sample_rate, self.window, NUM_BANDS)
        # Made anew from two numbers, so no weights: they are neither stored nor sent.
        self.register_buffer("waves", torch.tensor(waves[:, None], dtype=torch.float32), persistent=False)
        self.register_buffer("bands", torch.tensor(bands, dtype=torch.float32), persistent=False)

    def forward(self, sounds: Tensor) -> Tensor:
        """Return `(N, NUM_BANDS, num_frames)` of sounds `(N, num_values)`."""
        half = self.window // 2
        padded = nn.functional.pad(sounds[:, None], (half, self.window - half))
        parts = nn.functional.conv1d(padded, self.waves, stride=self.hop)[:, :, : self.num_frames]
        real, imaginary = parts.chunk(2, dim=1)
        return torch.matmul(self.bands, real.square() + imaginary.square())


def mel_bands(sample_rate: int, window: int, num_bands: int) -> NDArray[np.float64]:
    """Return the weights of a window's frequencies in bands from 0 to half the rate, `(bands, window // 2 + 1)`."""
    frequencies = np.arange(window // 2 + 1) * sample_rate / window
    edges = _hertz(np.linspace(0, _mel(np.array(sample_rate / 2)), num_bands + 2))
    below, centre, above = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequencies - below) / (centre - below), (above - frequencies) / (above - centre)
    return np.clip(np.minimum(rising, falling), 0, None) * 2 / (above - below)


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _BREAK_HZ / _LINEAR_HZ + np.log(np.maximum(hertz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hertz < _BREAK_HZ, hertz / _LINEAR_HZ, above)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    first = _BREAK_HZ / _LINEAR_HZ
    return np.where(mel < first, mel * _LINEAR_HZ, _BREAK_HZ * np.exp(_LOG_STEP * np.maximum(mel - first, 0)))


def lengths(sounds: Tensor) -> Tensor:
    """Return the number of values of each sound up to its last that isn't zero, `(N,)` float32, at least 1."""
    places = torch.arange(1, sounds.shape[1] + 1, device=sounds.device, dtype=torch.float32)
    return (places * (sounds != 0)).amax(dim=1).clamp_min(1)
