"""Recordings: folders and arrays, one channel, one rate, what is left out, told of and refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import fedgraft.data.sources.audio
from fedgraft.data.federation import Federation
from fedgraft.data.samples import Samples
from fedgraft.data.settings import AudioArrays, AudioSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError

FSDD = Path(__file__).resolve().parents[3] / "shared" / "data" / "fsdd" / "fsdd.npz"


def tone(hertz: float, rate: int = 8000, seconds: float = 0.1, loudness: float = 0.5) -> np.ndarray:
    return (loudness * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def save(path: Path, values: Any, rate: int = 8000, subtype: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, values, rate, subtype=subtype)


def load(path: Path, **values: Any) -> Samples:
    return load_samples(AudioSettings(path=str(path), **values), seed=1)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    root = tmp_path / "words"
    for number in range(3):
        save(root / "no" / f"{number}.wav", tone(200 + number))
        save(root / "yes" / f"{number}.flac", tone(400 + number))
    return root


def test_a_sub_folder_is_a_class(words: Path) -> None:
    samples = load(words)
    assert samples.kind == "sounds"
    assert samples.label_names == ("no", "yes")
    assert samples.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert samples.sample_ids.tolist()[2:4] == ["no/2.wav", "yes/0.flac"]
    assert samples.natural_client is None
    assert samples.notes == ()
    first, second = samples.sounds([4, 0])
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, tone(401), atol=1 / 2**15)  # 16 bits are what the files keep
    np.testing.assert_allclose(second, tone(200), atol=1 / 2**15)


def test_a_level_of_speakers_is_the_clients(tmp_path: Path, build: Callable[..., Federation]) -> None:
    for speaker in ("ann", "bob"):
        for label in ("no", "yes"):
            for number in range(5):
                save(tmp_path / "people" / speaker / label / f"{number}.wav", tone(300 + number))
    federation = build({"name": "audio", "path": str(tmp_path / "people"), "sites": True}, "natural")
    assert federation.client_names == ("ann", "bob")
    with pytest.raises(DataError, match="if these are sites with class folders inside, set sites: true"):
        load(tmp_path / "people")


def test_channels_are_mixed_and_other_rates_brought_to_that_of_most(words: Path) -> None:
    """The mean of the channels; a 300 Hz tone at 16 kHz is the same tone at 8 kHz, away from its ends."""
    left, right = tone(250, seconds=0.2), tone(500, seconds=0.2)
    save(words / "no" / "both.wav", np.stack([left, right], axis=1))
    save(words / "yes" / "fast.wav", tone(300, rate=16_000, seconds=0.5), rate=16_000)
    samples = load(words)
    assert samples.inputs.sample_rate == 8000  # type: ignore[attr-defined]
    ids = samples.sample_ids.tolist()
    mixed, slowed = samples.sounds([ids.index("no/both.wav"), ids.index("yes/fast.wav")])
    np.testing.assert_allclose(mixed, (left + right) / 2, atol=1 / 2**15)
    assert len(slowed) == 4000
    np.testing.assert_allclose(slowed[400:-400], tone(300, seconds=0.5)[400:-400], atol=2e-3)
    assert samples.notes == (
        "1 recording resampled to 8000 Hz (from 16000 Hz): yes/fast.wav",
        "1 recording of several channels mixed to one: no/both.wav",
    )


def test_a_rate_of_the_settings_filters_what_it_cannot_hold(tmp_path: Path) -> None:
    """Above half the new rate nothing may stay: 5 kHz would come back as 3 kHz at 8 kHz."""
    save(tmp_path / "w" / "low" / "a.wav", tone(1000, rate=16_000, seconds=0.5), rate=16_000)
    save(tmp_path / "w" / "high" / "a.wav", tone(5000, rate=16_000, seconds=0.5), rate=16_000)
    samples = load(tmp_path / "w", sample_rate=8000)
    high, low = samples.sounds([0, 1])
    assert np.sqrt(np.mean(low**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)
    assert np.abs(high[400:-400]).max() < 0.005
    assert samples.notes[0].startswith("2 recordings resampled to 8000 Hz (from 16000 Hz)")
    faster = load(tmp_path / "w")
    assert not (faster.sample_digests() == samples.sample_digests()).all(axis=1).any()


def test_what_cannot_be_used_is_left_out_and_named(words: Path) -> None:
    save(words / "no" / "empty.wav", np.zeros(0))
    broken = tone(300)
    broken[7] = np.nan
    save(words / "yes" / "broken.wav", broken, subtype="FLOAT")
    (words / "yes" / "text.wav").write_text("no sound at all")
    save(words / "yes" / "slow.wav", tone(300), rate=1)
    samples = load(words)
    assert samples.num_samples == 6
    unusable, empty, not_finite = samples.notes
    said = "2 recordings left out: yes/slow.wav: said to have 1 samples a second, expected 1,000 to 384,000"
    assert unusable.startswith(said)
    assert "yes/text.wav: unreadable (" in unusable
    assert empty == "1 recording without samples left out: no/empty.wav"
    assert not_finite == "1 recording with NaN or infinite samples left out: yes/broken.wav"


def test_silence_and_clipping_are_told_of(words: Path) -> None:
    """Three values in a row at full scale are clipping; a loud sine of 16 bits touches it once in a while."""
    save(words / "no" / "silent.wav", tone(300, loudness=0.0005))
    save(words / "yes" / "loud.wav", tone(1000, loudness=1.0))
    save(words / "yes" / "over.wav", np.clip(tone(300, loudness=3.0), -1, 1))
    samples = load(words)
    assert samples.num_samples == 9
    assert samples.notes == (
        "1 recording is silent (below -60 dB): no/silent.wav",
        "1 recording is clipped (3 samples or more in a row at full scale): yes/over.wav",
    )


def test_a_file_is_looked_at_once(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load(words)

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(fedgraft.data.sources.audio, "inspect", refuse)
    again = load(words)
    assert again.digest() == before.digest()
    os.utime(words / "no" / "0.wav", ns=(1, 1))
    with pytest.raises(AssertionError, match=r"0\.wav was read again"):
        load(words)


def test_equal_recordings_have_equal_digests_wherever_they_lie(tmp_path: Path) -> None:
    values = (tone(300) * 2**15).astype(np.int16)
    save(tmp_path / "w" / "a" / "x.wav", values)
    save(tmp_path / "w" / "b" / "x.flac", values)
    arrays(tmp_path / "w.npz", audio=np.concatenate([values, values[::-1]]), offset=[0, len(values), 2 * len(values)])
    files, packed = load(tmp_path / "w").sample_digests(), load(tmp_path / "w.npz").sample_digests()
    assert np.array_equal(files[0], files[1])
    assert np.array_equal(files[0], packed[0])
    assert not np.array_equal(files[0], packed[1])


def test_without_the_package_folders_are_refused(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r'sound files need the package soundfile .*pip install "fedgraft\[audio\]"'):
        load(words)


def test_folders_that_make_no_sense(tmp_path: Path, words: Path) -> None:
    with pytest.raises(
        DataError, match=r"does not exist; did you mean 'words'\? .*one sub-folder of recordings a class"
    ):
        load(tmp_path / "word")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(
        DataError, match=r"a\.txt is a file, not a folder; one file with all recordings must be an \.npz"
    ):
        load(tmp_path / "a.txt")
    with pytest.raises(DataError, match="holds 3 recordings and no sub-folders; put the recordings of each class"):
        load(words / "no")
    for path in words.glob("*/*"):
        path.write_text("no sound")
    with pytest.raises(DataError, match=r"none of the 6 recordings can be used \(first: no/0\.wav: unreadable"):
        load(words)


def arrays(path: Path, **values: Any) -> Path:
    """Write two recordings, of 800 and 400 values, and what else is asked for."""
    there = {
        "audio": (np.concatenate([tone(300), tone(500, seconds=0.05)]) * 2**15).astype(np.int16),
        "offset": np.array([0, 800, 1200]),
        "labels": np.array([1, 0]),
        "sample_rate": np.int64(8000),
    }
    np.savez(path, **{name: value for name, value in {**there, **values}.items() if value is not None})
    return path


def test_recordings_of_an_array(tmp_path: Path) -> None:
    path = arrays(
        tmp_path / "a.npz", client=np.array([1, 0]), client_names=np.array(["ann", "bob"]), extra=np.arange(3)
    )
    samples = load(path)
    assert samples.label_names == ("0", "1")
    assert samples.targets.tolist() == [1, 0]
    assert samples.natural_client is not None
    assert samples.natural_client.tolist() == ["bob", "ann"]
    assert samples.notes == ("arrays that are not used: extra",)
    second, first = samples.sounds([1, 0])
    np.testing.assert_allclose(first, tone(300), atol=1 / 2**15)
    np.testing.assert_allclose(second, tone(500, seconds=0.05), atol=1 / 2**15)


def test_arrays_of_other_names_rates_and_channels(tmp_path: Path) -> None:
    stereo = np.stack([np.r_[tone(300), tone(300, rate=16_000)], np.zeros(2400, np.float32)], axis=1)
    values = {"waves": stereo, "begins": [0, 800, 2400], "word": np.array(["b", "a"]), "hertz": [8000, 16_000]}
    np.savez(tmp_path / "b.npz", **{name: np.asarray(value) for name, value in values.items()})
    names = AudioArrays(audio="waves", offset="begins", labels="word", sample_rate="hertz")
    samples = load(tmp_path / "b.npz", arrays=names)
    assert samples.label_names == ("a", "b")
    assert samples.inputs.sample_rate == 16_000  # type: ignore[attr-defined]  # of two rates as common, the higher
    first, second = samples.sounds([0, 1])
    assert (len(first), len(second)) == (1600, 1600)
    np.testing.assert_allclose(second, tone(300, rate=16_000) / 2, atol=1e-6)
    np.testing.assert_allclose(first[200:-200], second[200:-200], atol=2e-3)


def test_recordings_of_an_array_that_cannot_be_used(tmp_path: Path) -> None:
    audio = np.concatenate([tone(300), tone(300), tone(300)])
    audio[900] = np.inf
    path = arrays(tmp_path / "a.npz", audio=audio, offset=np.array([0, 800, 1600, 1600, 2400]), labels=[0, 1, 1, 1])
    samples = load(path)
    assert samples.sample_ids.tolist() == ["0", "3"]
    assert samples.notes == (
        "1 recording without samples left out: 2",
        "1 recording with NaN or infinite samples left out: 1",
    )
    np.testing.assert_allclose(samples.sounds([1])[0], tone(300))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"labels": None}, r"no array 'labels'; it has audio, offset, sample_rate .*source\.arrays names them"),
        ({"sample_rate": None}, "no array 'sample_rate'"),
        (
            {"sample_rate": np.array([8000] * 3)},
            r"'sample_rate' is int64 of shape \(3,\); expected one number .* 2 rec",
        ),
        ({"sample_rate": np.int64(0)}, "expected one number of samples a second, such as 16000"),
        ({"offset": np.array([0, 800, 700])}, "offsets must rise from 0, and row 2 is below row 1"),
        ({"offset": np.array([0, 800, 1300])}, r"of shape \(1200,\), but the offsets end at 1300; the file is cut off"),
        ({"offset": np.array([0.0, 800.0])}, "'offset' is float64 .* where each recording begins"),
        ({"audio": np.zeros(1200, np.uint8)}, r"'audio' is uint8 .*expected .* of int16, or of float32 from -1 to 1"),
        ({"labels": np.array([0.5, 1])}, r"'labels' is float64 of shape \(2,\); expected 2 integers or texts"),
        ({"labels": np.array([0, 1, 1])}, r"'labels' is int64 of shape \(3,\); expected 2 integers or texts"),
        (
            {"client": np.array([0, 5]), "client_names": np.array(["ann"])},
            "'client' has 5 in row 1, but there are 1 na",
        ),
        ({"is_test": np.array([0, 1])}, "'is_test' is int64 .*expected 2 booleans"),
        ({"labels": np.array([1, 1])}, "all 2 samples have the one class '1'"),
    ],
)
def test_arrays_that_make_no_sense(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    path = arrays(tmp_path / "a.npz", **values)
    with pytest.raises(DataError, match=text):
        load(path)


def test_an_array_that_the_settings_name_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no array 'label'; it has audio, .*did you mean 'labels'"):
        load(arrays(tmp_path / "a.npz"), arrays=AudioArrays(labels="label"))
    with pytest.raises(DataError, match=r"an \.npz file names clients in an array"):
        load(arrays(tmp_path / "a.npz"), sites=True)


def test_owners_are_clients_test_part_or_left_out(build: Callable[..., Federation]) -> None:
    """The file of the spoken digits as it is: 500 recordings of each of six speakers."""
    if not FSDD.exists():
        pytest.skip(f"the spoken digits are not at {FSDD}")
    source = {"name": "audio", "path": str(FSDD), "arrays": {"labels": "digit", "client": "speaker"}}
    partition = {"name": "natural", "clients": ["theo", "lucas", "nicolas"], "test": ["yweweler"]}
    federation = build(source, partition, validation_fraction=0.2)
    samples = federation.samples
    assert samples.natural_client is not None
    assert federation.client_names == ("lucas", "nicolas", "theo")
    assert federation.train.counts.tolist() == [400, 400, 400]
    for number, name in enumerate(federation.client_names):
        assert set(samples.natural_client[federation.train.of(number)]) == {name}
    assert set(samples.natural_client[federation.test]) == {"yweweler"}
    assert len(federation.test) == 500
    assert "1,000 samples of 2 owners that are no clients left out: george, jackson" in federation.notes
    assert any(
        note.startswith("what the source has of yweweler (500 samples) is the central test")
        for note in federation.notes
    )
    of_two = build(source, {"name": "natural", "clients": ["george", "jackson"]})
    assert of_two.client_names == ("george", "jackson")
    assert set(samples.natural_client[of_two.test]) == {"george", "jackson"}  # 50 each of the file's own test part
    assert len(of_two.test) == 100
    with pytest.raises(DataError, match=r"data\.partition\.clients: no samples of teo; .*did you mean 'theo'"):
        build(source, {**partition, "clients": ["teo"]})
    with pytest.raises(DataError, match=r"data\.partition\.test: no samples of ann"):
        build(source, {**partition, "test": ["ann"]})
    with pytest.raises(ValueError, match="came theo, also named in clients; name an owner in one of them"):
        build(source, {**partition, "test": ["theo"]})
