"""Sounds from file to answer: a run, predictions, exported files, a base trained and used again, a ranking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from small_sounds import FSDD, RATE, tone

import fedgraft
from fedgraft import Run
from fedgraft.errors import DataError, ModelError
from fedgraft.export import export_model, export_run
from fedgraft.model_card import Card
from fedgraft.models.backbone import Backbone
from fedgraft.models.head_settings import LinearHead
from fedgraft.models.registry import load
from fedgraft.models.settings import BackboneSettings
from fedgraft.progress import listening
from fedgraft.trained import TrainedModel, load_safetensors

Start = Callable[..., Run]


def notes_of(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    notes: list[str] = []
    with listening(lambda event: notes.append(event["text"]) if event["kind"] == "note" else None):
        return call(), notes


def test_predictions_are_those_of_the_stored_features(sound_run: Run, recordings: Path) -> None:
    from fedgraft.workspace import open_workspace

    scenario = sound_run.scenario
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    head = sound_run.head
    logits = np.asarray(workspace.features) @ head["weight"].T + head["bias"]
    ids = workspace.federation.samples.sample_ids.tolist()
    predictions = sound_run.predict([recordings])
    assert [str(one.file.relative_to(recordings)) for one in predictions] == ids
    assert [one.label for one in predictions] == [("high", "low")[number] for number in logits.argmax(axis=1)]
    assert sum(one.label in str(one.file) for one in predictions) >= 30  # of 32


def test_a_recording_of_another_rate_or_two_channels_is_the_same_sound(sound_run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1300, seconds=0.4), RATE)
    soundfile.write(tmp_path / "b.flac", np.repeat(tone(1300, seconds=0.4)[:, None], 2, axis=1), RATE)
    soundfile.write(tmp_path / "c.wav", tone(330, seconds=0.4, rate=16_000), 16_000)
    a, b, c = sound_run.predict([tmp_path])
    assert a.label == b.label == "high"
    assert a.probability == pytest.approx(b.probability, abs=1e-3)
    assert c.label == "low"


def test_what_cannot_be_heard_is_told_and_the_rest_predicted(sound_run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", tone(300), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    broken = tone(300)
    broken[5] = np.inf
    soundfile.write(tmp_path / "broken.wav", broken, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    predictions, notes = notes_of(lambda: sound_run.predict([tmp_path]))
    assert [one.file.name for one in predictions] == ["good.wav"]
    assert notes[0] == f"left out: {tmp_path / 'broken.wav'}: a recording with NaN or infinite samples"
    assert notes[1] == f"left out: {tmp_path / 'empty.wav'}: a recording without samples"
    assert notes[2].startswith(f"left out: {tmp_path / 'text.wav'}: ")
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(DataError, match="this run takes recordings, not arrays"):
        sound_run.predict([tmp_path / "x.npy"])


def model_of(name: str, **values: Any) -> TrainedModel:
    settings = BackboneSettings(name=name, **values)
    backbone = load(settings)
    assert isinstance(backbone, Backbone)
    draw = np.random.default_rng(2)
    dimension = backbone.info.feature_dim
    head = {"weight": draw.normal(size=(3, dimension)) / 10, "bias": draw.normal(size=3)}
    card = Card("small", "run-0001", "classes", "softmax", ("a", "b", "c"), LinearHead(), settings, backbone.info)
    return TrainedModel(card, backbone, {key: value.astype(np.float32) for key, value in head.items()})


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".safetensors"])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("log-mel", {"sample_rate": 8000, "seconds": 0.5}),
        ("log-mel-cnn", {"weights": "random", "sample_rate": 8000, "seconds": 0.5}),
        pytest.param("speaker-encoder", {"weights": "random"}, marks=pytest.mark.slow),
    ],
)
def test_exported_files_hear_what_the_model_hears(
    name: str, values: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    """Outputs of the file for sounds of unequal length, by onnxruntime, torch or FedGraft, and of the model."""
    model = model_of(name, **values)
    path = tmp_path / f"model{suffix}"
    report = export_model(model, path)
    length = model.card.input_shape[0]
    assert report.inputs.startswith(f"sounds: float32 (batch, {length}), mono from -1 to 1, ")
    sounds = np.zeros((2, length), dtype=np.float32)
    for row, seconds in zip(sounds, (0.1, 0.45), strict=True):
        sound = tone(700, seconds, rate=model.backbone.info.preprocessing.sample_rate)  # type: ignore[union-attr]
        row[: len(sound)] = sound
    with torch.inference_mode():
        expected = model.head(model.backbone.features(torch.from_numpy(sounds))).softmax(dim=1).numpy()
    if suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found = session.run(["probabilities"], {"sounds": sounds})[0]
    elif suffix == ".pt2":
        found = torch.export.load(path).module()(torch.from_numpy(sounds))["probabilities"].numpy()
    else:
        found = load_safetensors(path)(torch.from_numpy(sounds))["probabilities"].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_base_is_trained_exported_and_used_by_another_run(scenario: dict[str, Any], tmp_path: Path) -> None:
    """The second run's features are those of the base that the first one trained, not of the one that it began with."""
    base = {"name": "log-mel-cnn", "weights": "random", "sample_rate": RATE, "seconds": 0.5}
    of_ann = {**scenario["data"], "partition": {"name": "natural", "clients": ["ann"]}}
    first = {
        **scenario,
        "backbone": base,
        "data": of_ann,
        "strategy": "fedavg",
        "unfreeze": {"cut": "log-mel", "rate": 1.0},
        "train": {"local_epochs": 1, "batch_size": 4, "optimizer": {"name": "adam", "learning_rate": 0.001}},
        "server": {"rounds": 2},
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(first))
    trained = fedgraft.run(tmp_path / "base.yaml", out=tmp_path / "base")
    export_run(trained, tmp_path / "base.safetensors")
    second = {**scenario, "backbone": {**base, "weights": "base.safetensors"}}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    run = fedgraft.run(tmp_path / "second.yaml", out=tmp_path / "second")
    sounds = torch.zeros(1, 4000)
    sounds[0, :2400] = torch.from_numpy(tone(500))
    expected = trained.model.backbone.features(sounds)
    assert torch.equal(run.model.backbone.features(sounds), expected)
    untrained = load(BackboneSettings.model_validate(base)).features(sounds)
    assert float((untrained - expected).abs().max()) > 1e-4
    with pytest.raises(ModelError, match=r"base\.safetensors doesn't fit a model of"):
        load(BackboneSettings(name="timm:test_vit", weights=str(tmp_path / "base.safetensors")))


def test_sounds_and_backbones_of_pictures_are_refused_together(scenario: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({**scenario, "backbone": "pixels"}))
    with pytest.raises(DataError, match="the backbone pixels needs images, this source gives sounds; set `backbone: l"):
        fedgraft.run(tmp_path / "x.yaml", out=tmp_path / "x")


@pytest.mark.slow
def test_ranking_warns_of_the_speaker_encoder(tmp_path: Path) -> None:
    """A base that tells speakers apart, whatever they say, is of no use for what they say: plain bands are ahead."""
    from fedgraft.models.catalogue import speaker_file

    if not FSDD.exists():
        pytest.skip(f"the spoken digits are not at {FSDD}")
    if speaker_file() is None:
        pytest.skip("the weights are not here: pip install --no-deps resemblyzer")
    with np.load(FSDD, allow_pickle=False) as stored:
        offset, takes = stored["offset"], np.flatnonzero(stored["index"] % 5 == 0)
        parts = [stored["audio"][offset[take] : offset[take + 1]] for take in takes]
        columns = {name: stored[name][takes] for name in ("digit", "speaker")}
        np.savez(
            tmp_path / "few.npz",
            audio=np.concatenate(parts),
            offset=np.cumsum([0, *map(len, parts)]),
            speaker_names=stored["speaker_names"],
            sample_rate=stored["sample_rate"],
            **columns,
        )
    sets = [f"data.source.path={tmp_path / 'few.npz'}"]
    asked = {"backbones": "log-mel,speaker-encoder", "baselines": False, "out": tmp_path / "ranking"}
    ranking = fedgraft.rank("spoken-digits", sets, **asked)  # type: ignore[arg-type]
    assert [scored.backbone.name for scored in ranking.candidates] == ["log-mel", "speaker-encoder"]
    assert ranking.best.backbone.name == "log-mel"
    (warning,) = ranking.recommendation.warnings
    assert warning.startswith("likely negative transfer: speaker-encoder at penultimate (")
    assert "is worse than plain log-mel bands (" in warning
