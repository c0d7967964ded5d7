"""Backbones of sounds: log-mel bands, the convolutions over them, and the speaker encoder, against other libraries."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank, spectrogram

from fedgraft.errors import ModelError
from fedgraft.models.backbone import Backbone
from fedgraft.models.mel import MelSpectrogram, mel_bands
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings


def backbone(name: str = "log-mel", **values: object) -> Backbone:
    loaded = load(BackboneSettings(name=name, **values))  # type: ignore[arg-type]
    assert isinstance(loaded, Backbone)
    return loaded


def chirps(count: int, num_values: int, lengths: list[int] | None = None) -> Tensor:
    """Sounds with something in every band: noise under a swell, zeros after the end."""
    draw = np.random.default_rng(3)
    sounds = np.zeros((count, num_values), dtype=np.float32)
    for number, length in enumerate(lengths or [num_values] * count):
        swell = np.hanning(length + 2)[1:-1] * 0.3 + 0.01
        sounds[number, :length] = draw.normal(size=length) * swell
    return torch.from_numpy(sounds)


def mel_by_transformers(sound: Tensor, rate: int) -> np.ndarray:
    """Power in 40 Slaney bands of centred Hann windows of 25 ms each 10 ms, zeros beyond the ends."""
    window, hop = rate // 40, rate // 100
    return np.asarray(
        spectrogram(
            sound.double().numpy(),
            np.hanning(window + 1)[:-1],
            frame_length=window,
            hop_length=hop,
            fft_length=window,
            power=2.0,
            pad_mode="constant",
            mel_filters=mel_filter_bank(window // 2 + 1, 40, 0, rate / 2, rate, norm="slaney", mel_scale="slaney"),
            mel_floor=0.0,
            dtype=np.float64,
        )
    )


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_mel_bands_are_those_of_transformers(rate: int) -> None:
    window = rate // 40
    expected = mel_filter_bank(window // 2 + 1, 40, 0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_bands(rate, window, 40), expected.T, atol=1e-12)
    sounds = chirps(2, rate)
    found = MelSpectrogram(rate, rate)(sounds).numpy()
    assert found.shape == (2, 40, 101)
    for sound, bands in zip(sounds, found, strict=True):
        expected = mel_by_transformers(sound, rate)
        np.testing.assert_allclose(bands, expected, atol=2e-6 * expected.max())


@pytest.mark.parametrize(("rate", "num_values"), [(22_050, 4400), (11_000, 1100), (1000, 1000)])
def test_windows_of_an_odd_length_give_as_many_frames_as_they_say(rate: int, num_values: int) -> None:
    """Their lengths are multiples of the hop, so that the last window needs all of what is put after the sound."""
    mel = MelSpectrogram(rate, num_values)
    assert num_values % mel.hop == 0
    assert mel.window % 2 == 1
    assert mel(chirps(1, num_values)).shape == (1, 40, mel.num_frames)


def test_log_mel_is_the_mean_of_each_band_over_eight_parts_of_the_sound_itself() -> None:
    """Independently: logarithms of transformers' bands, cut at 80 dB, mean taken off, parts of equal length averaged.

    The second sound has 56 frames, seven a part; the third 101 and parts of 12.625, so that borders cut frames.
    """
    ends = [8000, 4481 - 80, 8000]
    sounds = chirps(3, 8000, ends)
    model = backbone(sample_rate=8000, seconds=1.0)
    found = model.features(sounds).numpy()
    assert found.shape == (3, 320)
    for sound, end, features in zip(sounds, ends, found, strict=True):
        power = mel_by_transformers(sound, 8000)
        logs = np.log(np.maximum(power, power.max() * 1e-8))[:, : (end - 1) // 80 + 1]
        fine = np.repeat(logs - logs.mean(), 8, axis=1)  # an eighth of a frame each: parts are whole numbers of them
        expected = fine.reshape(40, 8, -1).mean(axis=2)
        np.testing.assert_allclose(features.reshape(40, 8), expected, atol=2e-4)


def test_neither_loudness_nor_zeros_after_the_end_change_log_mel() -> None:
    short = chirps(1, 8000, [3000])
    features = backbone(sample_rate=8000, seconds=1.0).features(short)
    longer = torch.nn.functional.pad(short, (0, 8000))
    np.testing.assert_allclose(backbone(sample_rate=8000, seconds=2.0).features(longer), features, atol=1e-4)
    np.testing.assert_allclose(backbone(sample_rate=8000, seconds=1.0).features(short * 0.01), features, atol=2e-4)
    silent = backbone(sample_rate=8000, seconds=1.0).features(torch.zeros(1, 8000))
    np.testing.assert_allclose(silent, 0, atol=1e-4)  # nothing is louder than anything else


def test_cuts_of_the_convolutions() -> None:
    """Bands, then three blocks of stride 2 (20, 10 and 5 bands high), then the largest over time of 64 x 5."""
    model = backbone("log-mel-cnn", weights="random", sample_rate=8000, seconds=1.0)
    assert model.info.cuts == ("log-mel", "blocks.0", "blocks.1", "blocks.2", "penultimate")
    sounds = chirps(2, 8000, [8000, 5000])
    x = sounds
    shapes = [tuple(model.prefix(cut)(sounds).shape[1:]) for cut in model.info.cuts]
    assert shapes == [(40, 1, 101), (16, 20, 51), (32, 10, 26), (64, 5, 13), (320,)]
    bands = model.prefix("log-mel")(x)[:, :, 0]
    for number, frames in enumerate((100, 63)):
        inside = bands[number, :, :frames]
        assert float(inside.mean()) == pytest.approx(0, abs=1e-5)
        assert float(inside.var(correction=0)) == pytest.approx(1, abs=1e-4)
        assert not bands[number, :, frames:].any()
    state = {name: value.clone() for name, value in model.model.state_dict().items()}
    layers: list[nn.Module] = []
    for number in range(3):
        weight = state[f"blocks.{number}.0.weight"]
        conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], stride=2, padding=weight.shape[2] // 2)
        norm = nn.GroupNorm(4, weight.shape[0])
        conv.load_state_dict({part: state[f"blocks.{number}.0.{part}"] for part in ("weight", "bias")})
        norm.load_state_dict({part: state[f"blocks.{number}.1.{part}"] for part in ("weight", "bias")})
        layers += [conv, norm, nn.ReLU()]
    with torch.inference_mode():
        expected = nn.Sequential(*layers)(bands[:, None]).amax(3).flatten(1)
    np.testing.assert_allclose(model.features(sounds), expected, atol=1e-5)


def test_convolutions_come_without_weights() -> None:
    with pytest.raises(ModelError, match=r"log-mel-cnn comes without weights: .*fedgraft export RUN .*or to random"):
        describe(BackboneSettings(name="log-mel-cnn"))


def test_settings_of_other_kinds_are_refused() -> None:
    with pytest.raises(ModelError, match="log-mel takes sounds, and input_size is about images; leave it out"):
        describe(BackboneSettings(name="log-mel", input_size=64))
    with pytest.raises(ValueError, match=r"only backbones of sounds \(log-mel, log-mel-cnn, speaker-encoder\) have"):
        BackboneSettings(name="bundled:efficientnet_lite0", sample_rate=8000)
    with pytest.raises(ModelError, match=r"speaker-encoder hears 1\.6 s at 16000 Hz only, came sample_rate 8000"):
        describe(BackboneSettings(name="speaker-encoder", weights="random", sample_rate=8000))
    with pytest.raises(ModelError, match=r"came sounds \(1, 5\); log-mel takes \(N, 32000\)"):
        backbone().features(torch.zeros(1, 5))


def weights_of_the_package() -> Path:
    try:
        files = importlib.metadata.files("resemblyzer") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the weights are not here: pip install --no-deps resemblyzer")
    return Path(str(next(file for file in files if file.name == "pretrained.pt").locate()))


def test_the_speaker_encoder_is_that_of_its_package() -> None:
    """PyTorch's LSTM with the file's tensors, on transformers' bands of sounds as loud as the package makes them."""
    state = torch.load(weights_of_the_package(), map_location="cpu", weights_only=True)["model_state"]
    lstm, linear = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256)
    lstm.load_state_dict({name[5:]: value for name, value in state.items() if name.startswith("lstm.")})
    linear.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("linear.")})
    ends = [25_600, 9000, 9000]
    sounds = chirps(3, 25_600, ends)
    sounds[2] = sounds[1] * 0.01  # quieter than -30 dB
    expected = []
    for sound, end in zip(sounds, ends, strict=True):
        loudness = 20 * np.log10(np.sqrt(np.mean(sound[:end].numpy().astype(np.float64) ** 2)))
        louder = sound * 10 ** (max(0.0, -30 - loudness) / 20)
        bands = torch.tensor(mel_by_transformers(louder, 16_000)[:, :160].T, dtype=torch.float32)
        with torch.inference_mode():
            _, (hidden, _) = lstm(bands[None])
            raw = torch.relu(linear(hidden[-1]))[0]
        expected.append(raw / raw.norm())
    model = backbone("speaker-encoder")
    found = model.features(sounds)
    np.testing.assert_allclose(found, torch.stack(expected), atol=2e-5)
    assert float((found[0] - found[1]).abs().max()) > 0.01
    assert model.info.weights_digest != backbone("speaker-encoder", weights="random").info.weights_digest


def test_what_lacks_weights_says_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgraft.models.speaker_encoder.speaker_file", lambda: None)
    with pytest.raises(ModelError, match="`pip install --no-deps resemblyzer`"):
        load(BackboneSettings(name="speaker-encoder"))
