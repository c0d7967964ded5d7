"""Prediction of a user's own files; the oracle is the stored features and the head by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedgraft import Run
from fedgraft.errors import DataError, ModelError, StoreError
from fedgraft.progress import listening

Pictures = np.ndarray[Any, Any]


def softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def save(folder: Path, pictures: Pictures) -> list[Path]:
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number:02}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        Image.fromarray(picture).save(file)
    return files


def notes_of(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    notes: list[str] = []
    with listening(lambda event: notes.append(event["text"]) if event["kind"] == "note" else None):
        return call(), notes


def test_training_pictures_as_files_get_what_their_stored_features_give(
    picture_run: Run, training_pictures: Pictures, tmp_path: Path
) -> None:
    from fedgraft.workspace import open_workspace

    scenario = picture_run.scenario
    workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
    head = picture_run.head
    expected = softmax(np.asarray(workspace.features) @ head["weight"].T + head["bias"])

    predictions = picture_run.predict(save(tmp_path, training_pictures))

    came = np.array([list(prediction.probabilities.values()) for prediction in predictions])
    np.testing.assert_allclose(came, expected, atol=1e-5, rtol=0)
    names = np.array(["dark", "bright"])
    assert [prediction.label for prediction in predictions] == names[expected.argmax(axis=1)].tolist()
    assert [prediction.probability for prediction in predictions] == [max(row) for row in came.tolist()]


def test_a_folder_stands_for_its_images_sorted_and_the_rest_is_passed_over(
    picture_run: Run, training_pictures: Pictures, tmp_path: Path
) -> None:
    save(tmp_path / "b", training_pictures[:2])
    save(tmp_path / "a", training_pictures[2:3])
    save(tmp_path / ".thumbnails", training_pictures[:1])
    (tmp_path / "notes.txt").write_text("x")
    predictions = picture_run.predict([tmp_path])
    assert [prediction.file for prediction in predictions] == [
        tmp_path / name for name in ("a/00.png", "b/00.png", "b/01.png")
    ]


def test_pictures_of_every_kind_are_seen_as_the_same_picture(picture_run: Run, tmp_path: Path) -> None:
    """A flat grey picture is the same in every mode, and transparent pixels count as white."""
    grey, white = Image.new("L", (50, 30), 100), Image.new("L", (7, 90), 255)
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "rgb.bmp")
    grey.convert("P").save(tmp_path / "palette.gif")
    grey.convert("RGBA").save(tmp_path / "opaque.png")
    white.convert("RGB").save(tmp_path / "white.tif")
    Image.new("RGBA", (20, 20), (3, 200, 7, 0)).save(tmp_path / "clear.webp", lossless=True, exact=True)
    found = picture_run.predict([tmp_path])
    by_name = {prediction.file.name: prediction.outputs for prediction in found}
    for name in ("rgb.bmp", "palette.gif", "opaque.png"):
        np.testing.assert_allclose(by_name[name], by_name["grey.png"], atol=1e-6)
    np.testing.assert_allclose(by_name["clear.webp"], by_name["white.tif"], atol=1e-6)
    assert abs(by_name["white.tif"] - by_name["grey.png"]).max() > 1e-3


def test_exif_turns_a_picture(picture_run: Run, tmp_path: Path) -> None:
    pixels = np.zeros((24, 24, 3), dtype=np.uint8)
    pixels[:8] = (250, 40, 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn of 90 degrees clockwise
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "upright.png")
    turned, upright = picture_run.predict([tmp_path / "turned.png", tmp_path / "upright.png"])
    np.testing.assert_allclose(turned.outputs, upright.outputs, atol=1e-6)


def test_batches_do_not_change_predictions(picture_run: Run, training_pictures: Pictures, tmp_path: Path) -> None:
    """90 files make two batches of the default 64; each is predicted alone as well."""
    files = save(tmp_path, training_pictures)
    together = picture_run.predict([*files, *files, *files[:10]])
    assert [prediction.file for prediction in together] == [*files, *files, *files[:10]]
    for index in (0, 63, 64, 89):
        (alone,) = picture_run.predict([together[index].file])
        np.testing.assert_allclose(together[index].outputs, alone.outputs, atol=1e-6)


def test_unreadable_files_are_named_and_the_others_predicted(
    picture_run: Run, training_pictures: Pictures, tmp_path: Path
) -> None:
    good = save(tmp_path, training_pictures[:2])
    cut_off = tmp_path / "cut.png"
    cut_off.write_bytes(good[0].read_bytes()[:200])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    array = tmp_path / "rows.npy"
    np.save(array, np.zeros(3))
    missing = tmp_path / "0l.png"
    empty = tmp_path / "empty"
    empty.mkdir()
    predictions, notes = notes_of(lambda: picture_run.predict([cut_off, good[0], missing, text, empty, good[1], array]))
    assert [prediction.file for prediction in predictions] == good
    assert [note.split(": ", 2)[:2] for note in notes] == [
        ["left out", str(path)] for path in (missing, empty, cut_off, text, array)
    ]
    assert "no such file; did you mean '01.png'?" in notes[0]
    assert "the folder holds no files of .bmp" in notes[1]
    assert "not an image, or damaged" in notes[3]
    assert "this run takes pictures, not rows of numbers" in notes[4]


def test_only_unreadable_files_are_an_error(picture_run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"not one file can be predicted:\n  .*text\.png: not an image, or damaged"):
        picture_run.predict([tmp_path])
    with pytest.raises(DataError, match="no files to predict; name some"):
        picture_run.predict([])


def test_as_table_and_as_json(picture_run: Run, training_pictures: Pictures, tmp_path: Path) -> None:
    file = save(tmp_path, training_pictures[1:2])[0]
    (prediction,) = picture_run.predict([file])
    values = prediction.as_json()
    assert set(values) == {"file", "label", "probability", "probabilities"}
    assert list(values["probabilities"]) == ["dark", "bright"]
    assert values["label"] == max(values["probabilities"], key=values["probabilities"].get)
    assert values["probability"] == max(values["probabilities"].values())
    assert prediction.row() == (str(file), values["label"], f"{values['probability']:.3f}")


def test_the_command_says_which_files_are_left_out(
    picture_run: Run, training_pictures: Pictures, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """File names may look like markup; what is left out goes to stderr, so that stdout stays one document."""
    import json

    from fedgraft.cli import app

    (file,) = save(tmp_path, training_pictures[:1])
    good, bad = file.rename(tmp_path / "scan [1].png"), tmp_path / "x[/red].png"
    bad.parent.mkdir()
    bad.write_text("no picture")
    app(["predict", str(picture_run.directory), str(good), str(bad), "--json"], standalone_mode=False)
    out, err = capfd.readouterr()
    assert [entry["file"] for entry in json.loads(out)] == [str(good)]
    assert "".join(err.split()) == "".join(f"note: left out: {bad}: not an image, or damaged".split())


def test_rows_of_ready_features(feature_run: Run, feature_rows: Pictures, tmp_path: Path) -> None:
    head = feature_run.head
    expected = softmax(feature_rows @ head["weight"].T + head["bias"])
    np.save(tmp_path / "all.npy", feature_rows.astype(np.float64))
    np.save(tmp_path / "one.npy", feature_rows[7])
    np.savez(tmp_path / "some.npz", features=feature_rows[:2], labels=[0, 1])
    predictions = feature_run.predict([tmp_path])
    came = np.array([prediction.outputs for prediction in predictions])
    np.testing.assert_allclose(came, np.concatenate([expected, expected[7:8], expected[:2]]), atol=1e-6)
    assert [prediction.name for prediction in predictions[-2:]] == [f"{tmp_path / 'some.npz'}[{row}]" for row in (0, 1)]
    assert predictions[-1].as_json()["row"] == 1


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("picture.png", None, r"trained on ready features \(backbone identity\); give \.npy files"),
        ("wide.npy", np.zeros((2, 6)), r"float64 of shape \(2, 6\), expected numbers of \(N, 5\)"),
        ("texts.npy", np.array([["a"] * 5]), r"expected numbers of \(N, 5\)"),
        ("objects.npy", np.array([[None] * 5]), "no file of plain arrays"),
        ("nan.npy", np.array([[1, 2, 3, 4, 5], [1, np.nan, 3, 4, 5]]), "1 of 2 rows have NaN.*first row 1"),
        ("none.npy", np.zeros((0, 5)), "it holds no rows"),
        ("other.npz", {"x": np.zeros((1, 5))}, "it has no array 'features', but x"),
        ("damaged.npy", None, "no file of plain arrays"),
    ],
)
def test_rows_that_make_no_sense(feature_run: Run, tmp_path: Path, name: str, values: Any, text: str) -> None:
    path = tmp_path / name
    if values is None:
        path.write_bytes(b"no array")
    elif isinstance(values, dict):
        np.savez(path, **values)
    else:
        np.save(path, values)
    with pytest.raises(DataError, match=text):
        feature_run.predict([path])


def test_several_labels(make_run: Callable[..., Run], feature_rows: Pictures, tmp_path: Path) -> None:
    labels = (feature_rows[:, :3] > 0).astype(np.uint8)
    arrays = {"features": feature_rows, "labels": labels, "label_names": np.array(["x", "y", "z"])}
    run = make_run(arrays, "identity", {"task": "labels"}, train={"local_epochs": 40})
    np.save(tmp_path / "rows.npy", feature_rows)
    head = run.head
    expected = 1 / (1 + np.exp(-(feature_rows @ head["weight"].T + head["bias"]).astype(np.float64)))
    predictions = run.predict([tmp_path / "rows.npy"])
    np.testing.assert_allclose([prediction.outputs for prediction in predictions], expected, atol=1e-6)
    for prediction, row in zip(predictions, expected, strict=True):
        assert prediction.labels == tuple(name for name, value in zip("xyz", row, strict=True) if value > 0.5)
        assert prediction.label is prediction.probability is None
    none = next(prediction for prediction in predictions if not prediction.labels)
    assert none.row()[1:] == ("none", None)
    assert set(none.as_json()) == {"file", "row", "labels", "probabilities"}


def test_real_numbers(make_run: Callable[..., Run], feature_rows: Pictures, tmp_path: Path) -> None:
    targets = np.stack([feature_rows[:, 0], 2 * feature_rows[:, 1] + 3], axis=1)
    arrays = {"features": feature_rows, "labels": targets, "label_names": np.array(["age", "dose"])}
    run = make_run(arrays, "identity", {"task": "real"}, train={"optimizer": {"name": "sgd", "learning_rate": 0.05}})
    np.save(tmp_path / "row.npy", feature_rows[3])
    (prediction,) = run.predict([tmp_path / "row.npy"])
    expected = feature_rows[3] @ run.head["weight"].T + run.head["bias"]
    assert list(prediction.values) == ["age", "dose"]
    np.testing.assert_allclose(list(prediction.values.values()), expected, rtol=1e-5)
    assert prediction.probabilities == {}
    assert prediction.labels == ()
    assert prediction.row()[1:] == (f"age {expected[0]:.5g}, dose {expected[1]:.5g}", None)
    assert prediction.as_json()["values"] == prediction.values


def test_other_weights_than_the_run_was_trained_on_are_refused(
    make_run: Callable[..., Run], picture_run: Run, training_pictures: Pictures, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    from fedgraft.models.registry import load
    from fedgraft.models.settings import BackboneSettings

    def weights(seed: int) -> None:
        backbone = load(BackboneSettings(name="timm:test_resnet", weights="random", random_seed=seed))
        tensors = backbone.get_submodule("model").state_dict()
        save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "w.safetensors")

    weights(1)
    backbone = {"name": "timm:test_resnet", "weights": str(tmp_path / "w.safetensors"), "input_size": 32}
    run = make_run({"images": training_pictures, "labels": np.arange(40) % 2}, backbone)
    file = save(tmp_path / "files", training_pictures[:1])
    assert len(run.predict(file)) == 1
    weights(2)
    with pytest.raises(ModelError, match=r"was trained on timm:test_resnet with weights \w{12}, but .* here; put the"):
        Run(run.directory).predict(file)


def test_a_run_without_an_end_has_no_model(picture_run: Run, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(picture_run.directory, tmp_path / "copy")
    (copy / "summary.json").rename(copy / "hidden.json")
    with pytest.raises(StoreError, match="is not finished; go on with it"):
        Run(copy).predict([copy / "accuracy.png"])
    (copy / "hidden.json").rename(copy / "summary.json")
    (copy / "head.safetensors").unlink()
    with pytest.raises(StoreError, match="has no head yet"):
        Run(copy).predict([copy / "accuracy.png"])


def test_another_runs_head_is_refused(picture_run: Run, feature_run: Run, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(picture_run.directory, tmp_path / "copy")
    shutil.copy(feature_run.directory / "head.safetensors", copy)
    with pytest.raises(StoreError, match=r"holds .*\(3, 5\).* need .*it is another run's head, or damaged"):
        Run(copy).predict([copy / "accuracy.png"])
