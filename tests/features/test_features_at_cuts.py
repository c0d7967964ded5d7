"""Several cuts of a backbone from one pass: the bits of each cut alone, each picture read once, and no dead locks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from fedgraft.data.samples import Images, Samples, content_digests, numbered
from fedgraft.features.cuts import store_at_cuts
from fedgraft.features.extract import features_of
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.models.registry import describe
from fedgraft.models.settings import BackboneSettings

LITE0 = BackboneSettings(input_size=32)
TOKENS = BackboneSettings(name="timm:vit_tiny_patch16_224", weights="random", input_size=32)
SETTINGS = FeatureSettings()


@dataclass
class Pictures:
    """A source of pictures in memory that remembers which were read."""

    pictures: NDArray[np.uint8]
    reads: list[int] = field(default_factory=list)
    kind: Literal["images", "features"] = "images"

    def images(self, indices: NDArray[np.int64]) -> Images:
        self.reads += indices.tolist()
        return self.pictures[indices]

    def features(self) -> NDArray[np.float32]:
        raise NotImplementedError

    def digests(self) -> NDArray[np.uint8]:
        return content_digests(self.pictures)


def samples(count: int = 9) -> tuple[Samples, Pictures]:
    """Random pictures, the last of which repeats the first."""
    drawn = np.random.default_rng(3).integers(0, 256, (count, 20, 20, 3), dtype=np.uint8)
    drawn[-1] = drawn[0]
    inputs = Pictures(drawn)
    return Samples(inputs, np.arange(count) % 2, "classes", ("even", "odd"), numbered(count)), inputs


@pytest.mark.parametrize(
    "backbone", [LITE0, TOKENS, TOKENS.model_copy(update={"pooling": "mean"})], ids=["cnn", "tokens", "mean-of-tokens"]
)
def test_each_cut_has_the_bits_of_a_pass_of_its_own(backbone: BackboneSettings, tmp_path: Path) -> None:
    together, alone = FeatureStore(tmp_path / "together"), FeatureStore(tmp_path / "alone")
    cuts = describe(backbone).cuts
    made, inputs = samples()
    assert store_at_cuts(made, backbone, cuts, SETTINGS, store=together) == len(cuts)
    assert sorted(inputs.reads) == list(range(8))  # each once, the repeated one not at all
    inputs.reads.clear()
    for cut in cuts:
        settings = backbone.model_copy(update={"cut": cut})
        found = features_of(made, settings, SETTINGS, store=together)
        assert inputs.reads == []
        expected = features_of(made, settings, SETTINGS, store=alone)
        np.testing.assert_array_equal(found, expected, err_msg=cut)
        inputs.reads.clear()


def test_only_what_is_lacking_is_computed(tmp_path: Path) -> None:
    """One cut stands in the store, another for some of the samples."""
    store = FeatureStore(tmp_path)
    made, inputs = samples()
    features_of(made, LITE0.model_copy(update={"cut": "stem"}), SETTINGS, store=store)
    few = Samples(Pictures(inputs.pictures[:5]), made.targets[:5], "classes", ("even", "odd"), numbered(5))
    features_of(few, LITE0.model_copy(update={"cut": "blocks.1"}), SETTINGS, store=store)
    inputs.reads.clear()
    assert store_at_cuts(made, LITE0, ("stem", "blocks.1"), SETTINGS, store=store) == 1
    assert sorted(inputs.reads) == [5, 6, 7]
    assert store_at_cuts(made, LITE0, ("stem", "blocks.1"), SETTINGS, store=store) == 0


def test_two_at_once_in_any_order_both_come_to_an_end(tmp_path: Path) -> None:
    """Two threads take the same entries in opposite order; locks exclude threads as they do processes."""
    store, (made, inputs) = FeatureStore(tmp_path, note=lambda line: None), samples()
    orders = (("stem", "blocks.0", "blocks.1"), ("blocks.1", "blocks.0", "stem"))
    threads = [
        threading.Thread(
            target=store_at_cuts, args=(made, LITE0, order, SETTINGS), kwargs={"store": store}, daemon=True
        )
        for order in orders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(inputs.reads) == list(range(8))
