"""From pictures to stored features: the right numbers, and each of them computed once."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fedgraft.data.samples import Images, Samples, content_digests, numbered
from fedgraft.data.settings import SyntheticSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError, ModelError
from fedgraft.features import reading
from fedgraft.features.extract import features_of
from fedgraft.features.inputs import images_at_once
from fedgraft.features.preprocessing import normalised, resized
from fedgraft.features.reading import batches
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.models.backbone import Backbone
from fedgraft.models.preprocessing import ImagePreprocessing
from fedgraft.models.registry import load
from fedgraft.models.settings import BackboneSettings

LITE0 = BackboneSettings(input_size=32)
STEPS = ImagePreprocessing(input_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bicubic")


@dataclass
class Pictures:
    """A source of pictures in memory that remembers which were read."""

    pictures: NDArray[np.uint8] | list[NDArray[np.uint8]]
    reads: list[int] = field(default_factory=list)
    broken: int | None = None
    kind: Literal["images", "features"] = "images"

    def images(self, indices: NDArray[np.int64]) -> Images:
        self.reads += indices.tolist()
        if self.broken in indices:
            raise DataError("cat.png can't be read")
        if isinstance(self.pictures, list):
            return [self.pictures[index] for index in indices]
        return self.pictures[indices]

    def features(self) -> NDArray[np.float32]:
        raise NotImplementedError

    def digests(self) -> NDArray[np.uint8]:
        return content_digests(self.pictures)


def samples_of(inputs: Pictures) -> Samples:
    count = len(inputs.pictures)
    return Samples(inputs, np.arange(count) % 2, "classes", ("even", "odd"), numbered(count))


def draw(count: int, height: int = 12, width: int = 10, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    backbone = load(LITE0)
    assert isinstance(backbone, Backbone)
    return backbone


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return FeatureStore(note=lambda line: pytest.fail(line))


def by_pillow(backbone: Backbone, pictures: NDArray[np.uint8] | list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Return features by Pillow's resizing, NumPy's normalising and timm's own forward pass, one at a time."""
    steps = backbone.info.preprocessing
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    rows = []
    for picture in pictures:
        small = Image.fromarray(picture).resize((steps.input_size,) * 2, filters[steps.interpolation])
        values = (np.asarray(small, dtype=np.float64) / 255 - steps.mean) / steps.std
        with torch.inference_mode():
            inputs = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]
            maps = backbone.model.forward_features(inputs)
            rows.append(backbone.model.forward_head(maps, pre_logits=True).numpy()[0])
    return np.stack(rows)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (32, 32), (33, 500), (300, 200)])
def test_resizing_is_pillows(interpolation: str, height: int, width: int) -> None:
    steps = ImagePreprocessing(32, STEPS.mean, STEPS.std, interpolation)
    pictures = draw(3, height, width)
    found = resized(pictures, steps)
    assert (found.dtype, found.shape) == (torch.uint8, (3, 3, 32, 32))
    assert found.is_contiguous(memory_format=torch.channels_last)
    resample = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    expected = np.stack([np.asarray(Image.fromarray(picture).resize((32, 32), resample)) for picture in pictures])
    difference = np.abs(found.permute(0, 2, 3, 1).numpy().astype(int) - expected)
    assert difference.max() <= 1  # one grey level of 256: both round to bytes
    torch.testing.assert_close(resized(list(pictures), steps), found, rtol=0, atol=0)
    torch.testing.assert_close(resized(pictures[1:2], steps), found[1:2], rtol=0, atol=0)


def test_normalising_is_the_formula() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    expected = (np.arange(256).reshape(16, 16) / 255 - 0.4) / 0.3
    np.testing.assert_allclose(normalised(pixels, STEPS)[0, 1].numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_are_those_of_the_model_on_pillows_pictures(
    store: FeatureStore, lite0: Backbone, dtype: Literal["float32", "float16"]
) -> None:
    sizes = [(40, 30), (32, 32), (9, 70), (64, 64), (31, 33)]
    pictures = [draw(1, *size, seed=number)[0] for number, size in enumerate(sizes)]
    settings = FeatureSettings(dtype=dtype, batch_size=2)
    found = features_of(samples_of(Pictures(pictures)), LITE0, settings, store=store)
    assert (found.shape, found.dtype) == ((5, 1280), dtype)
    expected = by_pillow(lite0, pictures)
    # A pixel may differ by one level of 256 from Pillow's; features are about 0 to 5.
    assert np.abs(found - expected).max() / np.abs(expected).max() < 0.02
    exact = np.stack(
        [
            lite0.features(normalised(resized(p[None], lite0.info.preprocessing), lite0.info.preprocessing)).numpy()[0]
            for p in pictures
        ]
    )
    tolerance = 1e-5 if dtype == "float32" else 1e-3
    assert np.abs(found - exact).max() / np.abs(exact).max() < tolerance


def test_one_more_image_costs_one_image(store: FeatureStore) -> None:
    pictures = draw(20)
    first = features_of(samples_of(Pictures(pictures[:19])), LITE0, FeatureSettings(), store=store)
    # The new one comes in the middle, and the others in another order.
    order = np.array([5, 3, 19, *(index for index in range(18) if index not in (5, 3))])
    inputs, said = Pictures(pictures[order]), []
    found = features_of(
        samples_of(inputs), LITE0, FeatureSettings(), store=store, progress=lambda *count: said.append(count)
    )
    assert inputs.reads == [2]
    assert said == [(0, 1), (1, 1)]
    known = order != 19
    np.testing.assert_array_equal(found[known], first[order[known]])
    assert not np.isin(found[2], first).all()


def test_rows_are_not_shared_between_cuts_sizes_or_dtypes(store: FeatureStore) -> None:
    pictures = draw(3)
    for backbone, dtype in (
        (LITE0, "float32"),
        (LITE0, "float16"),
        (BackboneSettings(input_size=48), "float32"),
        (BackboneSettings(input_size=32, cut=load(LITE0).info.cuts[-2]), "float32"),
        (BackboneSettings(input_size=32, normalization_mean=(0.0, 0.0, 0.0)), "float32"),
        (BackboneSettings(input_size=32, weights="random"), "float32"),
    ):
        inputs = Pictures(pictures)
        features_of(samples_of(inputs), backbone, FeatureSettings(dtype=dtype), store=store)  # type: ignore[arg-type]
        assert sorted(inputs.reads) == [0, 1, 2]
    assert len(store.entries()) == 6


def test_equal_pictures_are_computed_once(store: FeatureStore) -> None:
    pictures = draw(4)[[0, 1, 0, 2, 2, 0, 3]]
    inputs = Pictures(pictures)
    found = features_of(samples_of(inputs), LITE0, FeatureSettings(), store=store)
    assert sorted(inputs.reads) == [0, 1, 3, 6]
    np.testing.assert_array_equal(found[[2, 5, 4]], found[[0, 0, 3]])
    assert len(np.unique(found, axis=0)) == 4


def test_a_reordered_federation_loads_no_backbone(store: FeatureStore) -> None:
    pictures = draw(6)
    first = features_of(samples_of(Pictures(pictures)), LITE0, FeatureSettings(), store=store)
    inputs = Pictures(pictures[::-1].copy())
    found = features_of(samples_of(inputs), LITE0, FeatureSettings(), store=store)
    assert inputs.reads == []
    np.testing.assert_array_equal(found, first[::-1])


def test_the_batch_does_not_matter(store: FeatureStore, tmp_path: Path) -> None:
    samples = samples_of(Pictures(draw(37)))
    whole = features_of(samples, LITE0, FeatureSettings(batch_size=64), store=store)
    single = features_of(samples, LITE0, FeatureSettings(batch_size=1), store=FeatureStore(tmp_path / "other"))
    assert np.abs(whole - single).max() / np.abs(whole).max() < 1e-5


def test_large_images_go_in_smaller_batches() -> None:
    # 2^18 pixels: 64 images of 64 px, 5 of 224 px, and never none.
    assert [images_at_once(size, 64) for size in (32, 64, 224, 600)] == [64, 64, 5, 1]
    assert images_at_once(224, 2) == 2


def test_weights_from_the_wire_are_used(store: FeatureStore) -> None:
    random = BackboneSettings(input_size=32, weights="random", random_seed=5)
    backbone = load(random)
    samples = samples_of(Pictures(draw(3)))
    expected = features_of(samples, random, FeatureSettings(), store=store)
    arrays = backbone.state_arrays()
    found = features_of(samples, LITE0, FeatureSettings(), store=store, weights=arrays)
    np.testing.assert_array_equal(found, expected)
    own = features_of(samples, LITE0, FeatureSettings(), store=store)
    assert np.abs(own - expected).max() > 0.01


def test_progress_counts_to_the_end(store: FeatureStore) -> None:
    said: list[tuple[int, int]] = []
    settings = FeatureSettings(batch_size=4)
    samples = samples_of(Pictures(draw(10)))
    for _ in range(2):
        features_of(samples, LITE0, settings, store=store, progress=lambda done, total: said.append((done, total)))
    assert said == [(0, 10), (4, 10), (8, 10), (10, 10)]  # nothing from the second, warm call


def test_ready_features_pass_as_they_are(store: FeatureStore) -> None:
    samples = load_samples(SyntheticSettings(num_samples=20, num_features=5), seed=1)
    found = features_of(samples, BackboneSettings(name="identity"), FeatureSettings(dtype="float16"), store=store)
    np.testing.assert_array_equal(found, samples.features())
    assert not store.root.exists()


def test_ready_features_for_a_network_are_refused(store: FeatureStore) -> None:
    samples = load_samples(SyntheticSettings(num_samples=20), seed=1)
    with pytest.raises(DataError, match="efficientnet_lite0 needs images, this source gives ready features; set"):
        features_of(samples, LITE0, FeatureSettings(), store=store)


def test_no_samples_give_no_rows(store: FeatureStore) -> None:
    found = features_of(samples_of(Pictures(draw(0))), LITE0, FeatureSettings(dtype="float16"), store=store)
    assert (found.shape, found.dtype) == ((0, 1280), np.float16)


def test_a_picture_that_cannot_be_read_stops_it_and_leaves_nothing(store: FeatureStore) -> None:
    inputs = Pictures(draw(200), broken=170)
    with pytest.raises(DataError, match=r"cat.png can't be read"):
        features_of(samples_of(inputs), LITE0, FeatureSettings(batch_size=16), store=store)
    assert list(store.root.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if "reading pictures" in thread.name]


def test_an_interrupt_leaves_nothing(store: FeatureStore) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features_of(
            samples_of(Pictures(draw(50))), LITE0, FeatureSettings(batch_size=8), store=store, progress=interrupt
        )
    assert list(store.root.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if "reading pictures" in thread.name]


def test_features_that_are_not_finite_are_refused(store: FeatureStore) -> None:
    backbone = load(BackboneSettings(input_size=32, weights="random"))
    arrays = backbone.state_arrays()
    name = next(name for name in arrays if name.endswith("running_var"))
    arrays[name] = np.full_like(arrays[name], -1)  # the root of a negative variance
    with pytest.raises(ModelError, match=r"gives NaN or infinite features for 3 of 3 images \(0, 1, 2\)"):
        features_of(samples_of(Pictures(draw(3))), LITE0, FeatureSettings(), store=store, weights=arrays)
    assert list(store.root.iterdir()) == []


@pytest.mark.parametrize("num_threads", [1, 3])
def test_batches_come_in_order_whatever_the_sizes(num_threads: int) -> None:
    pictures = [draw(1, 10 + number % 5, 20, seed=number)[0] for number in range(83)]
    inputs = Pictures(pictures)
    indices = np.random.default_rng(1).permutation(83)[:71]
    found = list(batches(inputs.images, indices, 32, STEPS, num_threads))
    assert [len(pixels) for _, pixels in found] == [32, 32, 7]
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in found]), indices)
    for batch, pixels in found:
        for index, picture in zip(batch, pixels, strict=True):
            torch.testing.assert_close(picture[None], resized(pictures[index][None], STEPS), rtol=0, atol=0)
    assert sorted(inputs.reads) == sorted(indices.tolist())


def test_large_pictures_are_not_all_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = draw(40, 50, 60)
    monkeypatch.setattr(reading, "READ_BYTES", 3 * pictures[0].nbytes + 1)
    asked: list[int] = []

    def read(indices: NDArray[np.int64]) -> Images:
        asked.append(len(indices))
        return pictures[indices]

    assert sum(len(pixels) for _, pixels in batches(read, np.arange(40), 32, STEPS, 2)) == 40
    assert max(asked) == 3


WARM = """
import sys
from pathlib import Path
import numpy as np
from fedgraft.data.settings import SyntheticSettings
from fedgraft.data.sources import load_samples
from fedgraft.features.extract import features_of
from fedgraft.features.settings import FeatureSettings
from fedgraft.models.settings import BackboneSettings

samples = load_samples(SyntheticSettings(kind="images", num_samples=12, image_size=16), seed=1)
said = []
found = features_of(
    samples, BackboneSettings(input_size=32), FeatureSettings(), progress=lambda *count: said.append(count)
)
heavy = {"torch", "timm", "torchvision", "PIL", "sklearn", "pandas"} & set(sys.modules)
print(len(said), found.shape, float(found.sum()), sorted(heavy))
"""


def test_a_warm_call_imports_neither_torch_nor_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cold, warm = (
        subprocess.run([sys.executable, "-c", textwrap.dedent(WARM)], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    )
    assert cold.startswith("2 (12, 1280)")
    assert "'torch'" in cold
    assert warm.startswith("0 (12, 1280)")
    assert warm.endswith("[]\n")
    assert warm.split()[3] == cold.split()[3]
