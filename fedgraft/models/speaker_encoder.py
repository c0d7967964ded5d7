"""A speaker encoder with real weights out of an installable package: nothing is downloaded, nothing of it imported.

Wan, Wang, Papir, Lopez Moreno, "Generalized end-to-end loss for speaker verification", ICASSP 2018, arXiv:1710.10467:
a long short-term memory of three layers over 40 mel bands, whose last state becomes a direction in 256 dimensions. The
weights are those of Resemblyzer (Resemble AI, Apache-2.0), trained so that recordings of one speaker lie together,
whatever is said. Its package needs a voice detector in C; its file of weights alone is read here.

Differs from the package: a recording is its first 1.6 s, one window of the encoder, filled up with zeros; quiet ones
are amplified as there, and pauses are not cut out.
"""

from __future__ import annotations

from torch import Tensor, nn

from fedgraft.errors import MissingWeightsError, ModelError
from fedgraft.models.catalogue import SPEAKER_PACKAGE, speaker_file
from fedgraft.models.cuts import PENULTIMATE, Architecture, Stage
from fedgraft.models.local import read_tensors
from fedgraft.models.mel import NUM_BANDS, MelSpectrogram, lengths
from fedgraft.models.preprocessing import SoundPreprocessing
from fedgraft.models.sources import Built
from fedgraft.models.weights import fill

SAMPLE_RATE = 16_000
NUM_FRAMES = 160
SECONDS = 1.6
DIMENSION = 256
LOUDNESS = 10 ** (-30 / 20)
"""Root mean square that quiet recordings are amplified to: -30 dB of full scale."""


class SpeakerEncoder(nn.Module):
    """From sounds to a direction each, and the classifier that every backbone carries: one output of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(SAMPLE_RATE, round(SECONDS * SAMPLE_RATE))
        self.lstm = nn.LSTM(NUM_BANDS, DIMENSION, num_layers=3, batch_first=True)
        self.linear = nn.Linear(DIMENSION, DIMENSION)
        self.classifier = nn.Linear(DIMENSION, 1)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def bands(self, sounds: Tensor) -> Tensor:
        """Return mel bands as tokens, `(N, NUM_FRAMES, NUM_BANDS)`, of sounds that are loud enough."""
        mean_square = sounds.square().sum(dim=1, keepdim=True) / lengths(sounds)[:, None]
        gain = (LOUDNESS / mean_square.clamp_min(1e-20).sqrt()).clamp_min(1)
        bands: Tensor = self.mel(sounds * gain)
        return bands[:, :, :NUM_FRAMES].transpose(1, 2)

    def embedding(self, bands: Tensor) -> Tensor:
        """Return directions `(N, DIMENSION)` of length 1, none of them negative."""
        states, _ = self.lstm(bands)
        positive: Tensor = self.linear(states[:, -1]).relu()
        return positive / positive.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)

    def forward(self, sounds: Tensor) -> Tensor:
        """Return the classifier's zeros."""
        output: Tensor = self.classifier(self.embedding(self.bands(sounds)))
        return output


def build(pretrained: bool, sample_rate: int | None, seconds: float | None) -> Built:
    """Return the encoder.

    Raises:
        ModelError: the package of the weights isn't installed, or another rate or length of sounds is asked for.
    """
    if sample_rate not in (None, SAMPLE_RATE) or seconds not in (None, SECONDS):
        raise ModelError(
            f"speaker-encoder hears {SECONDS} s at {SAMPLE_RATE} Hz only, came sample_rate {sample_rate} and seconds "
            f"{seconds}; leave both out: recordings are resampled, and cut or filled up"
        )
    model = SpeakerEncoder()
    file = speaker_file()
    if pretrained:
        if file is None:
            raise MissingWeightsError(
                f"the weights of speaker-encoder come from the package {SPEAKER_PACKAGE}, which isn't installed; "
                f"`pip install --no-deps {SPEAKER_PACKAGE}` (the rest of what it asks for isn't needed)"
            )
        own = {name: value for name, value in read_tensors(file).items() if not name.startswith("similarity_")}
        fill(model, own, origin=str(file), classifier=("classifier",))
    stages = (Stage("mel", (), _bands), Stage(PENULTIMATE, ("lstm", "linear"), _embedding))
    return Built(
        model=model,
        architecture=Architecture(stages, Stage("classifier", ("classifier",)), own_pooling="own", num_prefix_tokens=0),
        preprocessing=SoundPreprocessing(SAMPLE_RATE, SECONDS),
        files=(file,) if pretrained and file is not None else (),
    )


def _bands(model: nn.Module, sounds: Tensor) -> Tensor:
    bands: Tensor = model.bands(sounds)  # type: ignore[operator]
    return bands


def _embedding(model: nn.Module, bands: Tensor) -> Tensor:
    embedding: Tensor = model.embedding(bands)  # type: ignore[operator]
    return embedding
