"""The trained model as a module, and files of it that can't be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trained_models import TABLE, pictures, trained

from fedgraft import Run
from fedgraft.errors import ModelError, StoreError
from fedgraft.tensor_files import read_tensors, save_tensors
from fedgraft.trained import load_safetensors, save_safetensors


def changed(path: Path, arrays: dict[str, Any] | None = None, **facts: Any) -> Path:
    """Write a copy of an exported file with some arrays or facts replaced."""
    old_arrays, old_facts = read_tensors(path)
    copy = path.with_name("changed.safetensors")
    save_tensors(copy, {**old_arrays, **(arrays or {})}, {**old_facts, **facts})
    return copy


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    save_safetensors(trained(TABLE[1]), path)
    return path


def test_the_module_is_frozen_and_does_not_wake(picture_run: Run) -> None:
    model = picture_run.model
    assert model is picture_run.model
    assert model.label_names == ("dark", "bright")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model(pictures(model, 4))
    assert not any(part.training for part in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_probabilities_are_what_the_loss_means() -> None:
    """Softmax sums to 1, sigmoids stand alone, a regression on zeros and ones is cut off at both."""
    for row in TABLE:
        model = trained(row)
        outputs = model(pictures(model, 3))
        assert set(outputs) == set(model.card.output_names)
        if row.loss == "softmax":
            np.testing.assert_allclose(outputs["probabilities"].sum(1), 1, rtol=1e-5)
        elif row.task == "labels":
            np.testing.assert_allclose(
                outputs["probabilities"], 1 / (1 + np.exp(-outputs["logits"].numpy())), rtol=1e-5
            )


def test_loading_gives_equal_outputs_whatever_was_random(file: Path) -> None:
    model, loaded = trained(TABLE[1]), load_safetensors(file)
    images = pictures(model, 3)
    assert all(torch.equal(value, loaded(images)[name]) for name, value in model(images).items())
    assert loaded.card == model.card


def test_files_that_are_none_of_ours(tmp_path: Path, picture_run: Run) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(StoreError, match="there is no file"):
        load_safetensors(tmp_path / "missing.safetensors")
    save_file({"x": np.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(StoreError, match=r"other\.safetensors"):
        load_safetensors(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="holds no model that FedGraft exported; write one with: fedgraft export RUN"):
        load_safetensors(picture_run.directory / "head.safetensors")


def test_damaged_files(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StoreError, match=r"cut\.safetensors"):
        load_safetensors(tmp_path / "cut.safetensors")
    with pytest.raises(ModelError, match="has schema 2, this release of FedGraft knows 1"):
        load_safetensors(changed(file, schema="2"))
    with pytest.raises(
        ModelError, match=r"the description in .* is damaged: Input should be 'classes', 'labels' or 'real'; export"
    ):
        load_safetensors(changed(file, task="guess"))
    with pytest.raises(ModelError, match=r"the head in .* doesn't fit its description"):
        load_safetensors(changed(file, {"head.layers.0.bias": np.zeros(3, dtype=np.float32)}))
    with pytest.raises(ModelError, match=r"1 ill-shaped \(conv_stem\.weight"):
        load_safetensors(changed(file, {"backbone.conv_stem.weight": np.zeros(3, dtype=np.float32)}))


def test_a_library_that_builds_another_model_is_noticed(file: Path) -> None:
    """Here the weights differ; a library whose layers changed shows in the same way."""
    name = "backbone.conv_stem.weight"
    with pytest.raises(ModelError, match=r"gives other outputs than when it was exported .*built by timm .* install"):
        load_safetensors(changed(file, {name: -read_tensors(file)[0][name]}))
