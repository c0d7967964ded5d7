"""Weights from local files: what is accepted, what is refused and how it is said."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedgraft.errors import ModelError
from fedgraft.models.catalogue import bundled_file
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings

NAME = "timm:resnet18"


def from_file(file: Path, name: str = NAME) -> Any:
    return load(BackboneSettings(name=name, weights=str(file), input_size=64))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    backbone = load(BackboneSettings(name=NAME, weights="random", input_size=64, random_seed=5))
    return {name: torch.from_numpy(array) for name, array in backbone.state_arrays().items()}


def same(backbone: Any, state: dict[str, torch.Tensor]) -> bool:
    arrays = backbone.state_arrays()
    return arrays.keys() == state.keys() and all(np.array_equal(arrays[k], state[k].numpy()) for k in arrays)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": state}, "lr": 0.1},
        lambda state: {"module." + name: value for name, value in state.items()},
        lambda state: {"model": {"_orig_mod.module." + name: value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
        lambda state: {name: torch.nn.Parameter(value, value.is_floating_point()) for name, value in state.items()},
    ],
)
def test_pth_files_in_the_usual_wrappings(
    wrap: Callable[[dict[str, torch.Tensor]], Any], state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(wrap(state), tmp_path / "weights.pth")
    assert same(from_file(tmp_path / "weights.pth"), state)


def test_safetensors_also_in_half_precision(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    assert same(from_file(tmp_path / "weights.safetensors"), state)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(half, tmp_path / "half.safetensors")
    backbone = from_file(tmp_path / "half.safetensors")
    assert same(backbone, {name: value.to(state[name].dtype) for name, value in half.items()})


@pytest.mark.parametrize("classes", [None, 10])
def test_a_classifier_may_be_missing_or_another_one(
    classes: int | None, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    del state["fc.weight"], state["fc.bias"]
    if classes is not None:
        state |= {"fc.weight": torch.ones(classes, 512), "fc.bias": torch.ones(classes)}
    torch.save(state, tmp_path / "weights.pth")
    backbone = from_file(tmp_path / "weights.pth")
    arrays = backbone.state_arrays()
    assert np.array_equal(arrays["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"].numpy())
    assert not arrays["fc.weight"].any()


def test_the_original_names_of_a_bundled_file_are_understood() -> None:
    name = "bundled:efficientnet_lite0"
    file = bundled_file(name)
    assert file is not None
    assert from_file(file, name).info.weights_digest == describe(BackboneSettings()).weights_digest


def test_wrong_weights_are_counted_and_the_first_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """A resnet34 has all that a resnet18 has, in the same shapes, and more; the other way round it lacks it.

    Their state dicts have 218 and 122 tensors: 96 are missing one way and unexpected the other way.
    """
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ModelError) as caught:
        from_file(tmp_path / "weights.pth", "timm:resnet34")
    text = str(caught.value)
    assert f"{tmp_path / 'weights.pth'} doesn't fit a model of 218 tensors" in text
    missing = 96 - 16  # num_batches_tracked, one to each of 16 batch-norms, may be missing
    assert f"{missing} missing (layer1.2.conv1.weight, layer1.2.bn1.weight, layer1.2.bn1.bias" in text
    assert f"and {missing - 5} more" in text
    assert "the backbone's name that fits" in text

    larger = load(BackboneSettings(name="timm:resnet34", weights="random", input_size=64)).state_arrays()
    save_file({key: torch.from_numpy(value) for key, value in larger.items()}, tmp_path / "larger.safetensors")
    with pytest.raises(ModelError, match=r"96 unexpected \(layer1.2.bn1.bias, .* and 91 more\)"):
        from_file(tmp_path / "larger.safetensors")


class Exploit:
    """What a pickle could do on reading: `reached` would name an existing folder."""

    reached = Path(tempfile.gettempdir()) / "fedgraft-test-reached"

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.reached),)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"no weights at all", "is damaged, or holds more"),
        (b"", "it may be damaged"),
        ({"a": Exploit()}, "could run code and is refused"),
        ({"a": torch.zeros(1), "b": "text"}, "entries that are no tensors: b"),
        ([torch.zeros(1)], "holds list; expected a state dict"),
        ({}, "holds dict; expected a state dict"),
    ],
)
def test_files_that_are_no_weights(content: Any, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ModelError) as caught:
        from_file(file)
    assert expected in str(caught.value)
    assert str(file) in str(caught.value)
    assert not Exploit.reached.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save(state, file) if suffix == ".pth" else save_file(state, file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError) as caught:
        from_file(file)
    assert "damaged" in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_and_not_finite_weights(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights file .*nowhere\.pth"):
        from_file(tmp_path / "nowhere.pth")
    state["conv1.weight"][0, 0, 0, 0] = float("inf")
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"1 not finite \(conv1.weight\)"):
        from_file(tmp_path / "weights.pth")


def test_a_changed_or_vanished_file_is_noticed(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    settings = BackboneSettings(name=NAME, weights=str(file), input_size=64)
    save_file(state, file)
    before = describe(settings)
    state["conv1.weight"][0, 0, 0, 0] += 1
    save_file(state, file)
    after = describe(settings)
    assert after.weights_digest != before.weights_digest
    assert after.key() != before.key()
    file.unlink()
    with pytest.raises(ModelError, match="no weights file"):
        describe(settings)


def test_a_relative_path_is_of_the_current_folder(
    state: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = set()
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        state["conv1.weight"] += number
        save_file(state, folder / "weights.safetensors")
        monkeypatch.chdir(folder)
        digests.add(describe(BackboneSettings(name=NAME, weights="weights.safetensors", input_size=64)).weights_digest)
    assert len(digests) == 2
