"""The backbone that learned nothing: its features are the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fedgraft.errors import ModelError
from fedgraft.features.preprocessing import normalised, resized
from fedgraft.models.registry import describe, load
from fedgraft.models.settings import BackboneSettings


def test_features_are_the_pixels_made_small() -> None:
    """Pillow makes the same 16 x 16 picture, to rounding of bytes; red, green, blue one after another, in -1 to 1."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 40, 40, 3)).astype(np.uint8)
    backbone = load(BackboneSettings(name="pixels"))
    steps = backbone.info.preprocessing
    found = backbone.features(normalised(resized(pixels, steps), steps)).numpy()
    small = np.asarray(Image.fromarray(pixels[0]).resize((16, 16), Image.Resampling.BILINEAR)).astype(np.float64)
    expected = (small / 255 - 0.5) / 0.5
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1).reshape(1, -1), atol=1.01 * 2 / 255)
    assert backbone.info.feature_dim == found.shape[1] == 768
    assert backbone.info.cuts == ("penultimate",)


def test_random_weights_change_nothing() -> None:
    """There are none: so a site that reads no weights of others has the same digest."""
    digests = {
        describe(BackboneSettings(name="pixels", weights=weights, random_seed=seed)).weights_digest
        for weights, seed in (("pretrained", 0), ("random", 0), ("random", 5))
    }
    assert len(digests) == 1


def test_other_sizes_and_what_is_refused() -> None:
    assert describe(BackboneSettings(name="pixels", input_size=8)).feature_dim == 192
    with pytest.raises(ModelError, match="pixels has no cut 'stem'; its cuts are: penultimate"):
        describe(BackboneSettings(name="pixels", cut="stem"))
    with pytest.raises(ValueError, match=r"unknown backbone 'pixel'.*did you mean 'pixels'"):
        BackboneSettings(name="pixel")
    suffix = load(BackboneSettings(name="pixels")).suffix("penultimate")
    assert torch.equal(suffix(torch.ones(2, 768)), torch.zeros(2, 1))
