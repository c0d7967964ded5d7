"""Settings, digests and the split of named values."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedgraft.errors import ModelError
from fedgraft.models.info import BackboneInfo
from fedgraft.models.partition import combine, partition
from fedgraft.models.preprocessing import ImagePreprocessing
from fedgraft.models.registry import IDENTITY
from fedgraft.models.settings import BackboneSettings
from fedgraft.models.weights import weights_digest

full_names = st.lists(
    st.sampled_from(["layer1", "layer10", "layer2", "fc"]).flatmap(
        lambda block: st.sampled_from(["0.weight", "0.bias", "1.weight", "weight"]).map(lambda tail: f"{block}.{tail}")
    ),
    unique=True,
)


@given(full_names, st.data())
def test_partition_and_combine_are_inverses(names: list[str], data: st.DataObject) -> None:
    state = {name: np.full(2, position) for position, name in enumerate(names)}
    chosen = data.draw(st.sets(st.sampled_from(names))) if names else set()
    trainable, frozen = partition(state, chosen.__contains__)
    assert trainable.keys() == chosen
    assert not trainable.keys() & frozen.keys()
    together = combine(trainable, frozen)
    assert together.keys() == state.keys()
    assert all(together[name] is state[name] for name in state)
    assert partition(together, chosen.__contains__) == (trainable, frozen)


def test_prefixes_end_at_a_dot() -> None:
    state = {"layer1.0.weight": 1, "layer10.0.weight": 2, "fc.bias": 3}
    assert partition(state, ["layer1"])[0] == {"layer1.0.weight": 1}
    assert partition(state, "layer1.")[0] == {"layer1.0.weight": 1}
    assert partition(state, ["layer1", "fc.bias"])[1] == {"layer10.0.weight": 2}
    assert partition(state, []) == ({}, state)
    with pytest.raises(
        ModelError, match=r"no parameter is called layer3 or stands below; the first are layer1\.0\.weight"
    ):
        partition(state, ["layer1", "layer3"])


def test_a_name_in_both_parts_is_refused() -> None:
    with pytest.raises(ModelError, match=r"1 names stand in both parts \(fc.bias\)"):
        combine({"fc.bias": 1, "a": 1}, {"fc.bias": 2})


def test_the_digest_by_hand() -> None:
    """sha256 over name, dtype, shape and little-endian bytes, names in order."""
    arrays = {"b": np.array(3, np.int64), "a": np.array([[1, 2]], np.float32)}
    expected = hashlib.sha256()
    expected.update(b"a\0float32\0(1, 2)\0" + bytes.fromhex("0000803f00000040"))
    expected.update(b"b\0int64\0()\0" + (3).to_bytes(8, "little"))
    assert weights_digest(arrays) == expected.hexdigest()
    assert weights_digest({"a": np.array([[1, 2]], ">f4"), "b": arrays["b"]}) == expected.hexdigest()
    assert weights_digest({"a": np.asfortranarray(arrays["a"]), "b": arrays["b"]}) == expected.hexdigest()


@pytest.mark.parametrize(
    "change",
    [{"a": np.float32([[1, 3]])}, {"a": np.float32([1, 2])}, {"a": np.float64([[1, 2]])}, {"c": np.float32(0)}],
)
def test_the_digest_notices_values_shapes_types_and_names(change: dict[str, np.ndarray]) -> None:
    arrays = {"b": np.array(3), "a": np.float32([[1, 2]])}
    assert weights_digest({**arrays, **change}) != weights_digest(arrays)


def test_info_survives_json() -> None:
    assert BackboneInfo.from_json(IDENTITY.as_json()) == IDENTITY
    steps = ImagePreprocessing(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    assert steps.key() != ImagePreprocessing(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear").key()


def test_a_bare_name_is_the_short_form() -> None:
    assert BackboneSettings.model_validate_json('"timm:resnet18"') == BackboneSettings(name="timm:resnet18")
    assert BackboneSettings.model_validate_json('{"normalization_mean": [0, 0, 0]}').normalization_mean == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "bundled:efficientnet_lite9"}, "there are bundled:efficientnet_lite0, bundled:efficientnet_lite1"),
        ({"name": "bundeld:efficientnet_lite1"}, "did you mean 'bundled:efficientnet_lite1'?"),
        ({"name": "resnet18"}, "did you mean 'torchvision:resnet18'?"),
        ({"name": "resnet"}, "`fedgraft list backbones` shows the names"),
        (
            {"name": "timm:"},
            "expected bundled:<name>, torchvision:<name>, timm:<name>, transformers:<name>, pixels, log-mel",
        ),
        ({"weights": "pretraind"}, "came 'pretraind'; expected pretrained, random, or the path"),
        ({"weights": "pretraind"}, "did you mean 'pretrained'?"),
        ({"normalization_std": (1.0, 0.0, 1.0)}, "expected three numbers above 0"),
        ({"input_size": 4}, "greater than or equal to 8"),
        ({"pooling": "max"}, "'auto', 'mean' or 'class_token'"),
        ({"cuts": "penultimate"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_are_refused_with_the_valid_ones(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        BackboneSettings.model_validate(changes)
    assert expected in str(caught.value)
