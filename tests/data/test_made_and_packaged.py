"""Sources that need no files of the user: synthetic samples, scikit-learn's digits, torchvision's data sets."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedgraft.data.samples import Samples
from fedgraft.data.settings import DigitsSettings, SyntheticSettings, TorchvisionSettings
from fedgraft.data.sources import load_samples
from fedgraft.errors import DataError

FASHION = Path(__file__).parents[2].parent / "shared" / "data" / "fashion-mnist" / "FashionMNIST" / "raw"


def synthetic(seed: int = 1, **values: Any) -> Samples:
    return load_samples(SyntheticSettings(**values), seed)


def test_digits_are_scikit_learns() -> None:
    samples = load_samples(DigitsSettings(), seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sklearn.datasets import load_digits

        oracle = load_digits()
    np.testing.assert_array_equal(samples.targets, oracle.target)
    images = samples.images(np.arange(1797))
    assert isinstance(images, np.ndarray)
    expected = np.repeat(np.rint(oracle.images / 16 * 255)[..., None], 3, axis=-1)
    np.testing.assert_array_equal(images, expected)
    assert samples.label_names == tuple("0123456789")
    assert len(np.unique(samples.sample_digests(), axis=0)) == len(np.unique(oracle.data, axis=0))


def test_synthetic_features_have_the_stated_separation_and_noise() -> None:
    """Mean distance between 50 centres is 6 (unit directions in 400 dimensions are nearly orthogonal)."""
    samples = synthetic(num_samples=10_000, num_classes=50, num_features=400, separation=6.0)
    features, classes = samples.features(), samples.targets
    assert np.bincount(classes).tolist() == [200] * 50
    centres = np.stack([features[classes == number].mean(axis=0) for number in range(50)])
    gaps = centres[:, None] - centres[None]
    squared = (gaps**2).sum(axis=-1)[np.triu_indices(50, 1)] - 2 * 400 / 200  # less the noise of both means
    np.testing.assert_allclose(np.sqrt(squared.mean()), 6.0, rtol=0.02)
    np.testing.assert_allclose((features - centres[classes]).std(), 1.0, rtol=0.01)


def test_synthetic_real_targets_can_be_recovered_by_least_squares() -> None:
    samples = synthetic(task="real", num_targets=2, num_samples=2000, num_features=16, separation=50.0)
    features, targets = samples.features(), samples.targets
    weights = np.linalg.lstsq(features, targets, rcond=None)[0]
    residual = targets - features @ weights
    assert residual.std() < 0.1 * targets.std()
    assert samples.label_names == ("target-0", "target-1")


def test_synthetic_samples_follow_the_seed() -> None:
    one, same, other = synthetic(1), synthetic(1), synthetic(2)
    np.testing.assert_array_equal(one.features(), same.features())
    assert one.digest() == same.digest() != other.digest()
    assert (one.sample_digests() != other.sample_digests()).any(axis=1).all()
    assert len(np.unique(one.sample_digests(), axis=0)) == 1000
    clients = synthetic(1, num_clients=4)
    np.testing.assert_array_equal(clients.sample_digests(), one.sample_digests())


@pytest.mark.parametrize("size", [8, 30])
def test_synthetic_images_do_not_depend_on_which_are_asked_for(size: int) -> None:
    samples = synthetic(kind="images", num_samples=600, image_size=size)
    images = samples.images(np.arange(600))
    assert isinstance(images, np.ndarray)
    assert images.shape == (600, size, size, 3)
    assert images.dtype == np.uint8
    order = [599, 3, 256, 255, 3]
    np.testing.assert_array_equal(samples.images(order), images[order])


def test_synthetic_natural_clients_are_of_equal_size() -> None:
    owners = synthetic(num_samples=1003, num_clients=10).natural_client
    assert owners is not None
    names, counts = np.unique(owners, return_counts=True)
    assert names.tolist() == [f"client-{number}" for number in range(10)]
    assert set(counts) == {100, 101}


def torchvision(name: str, root: Path, **values: Any) -> Samples:
    return load_samples(TorchvisionSettings(name=f"torchvision:{name}", root=str(root), **values), seed=1)


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST does not lie in ../shared/data/fashion-mnist")
@pytest.mark.parametrize(
    ("num_train", "num_test"), [(2_000, 500), pytest.param(60_000, 10_000, marks=pytest.mark.slow)]
)
def test_fashion_mnist_through_torchvision(tmp_path: Path, num_train: int, num_test: int) -> None:
    """The files are unpacked (and shortened: bytes 4 to 8 hold the number of samples); the oracle reads bytes."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels, labels = {}, {}
    for part, count in (("train", num_train), ("t10k", num_test)):
        whole = gzip.decompress((FASHION / f"{part}-images-idx3-ubyte.gz").read_bytes())
        pixels[part] = whole[16 : 16 + count * 784]
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            whole[:4] + count.to_bytes(4, "big") + whole[8:16] + pixels[part]
        )
        whole = gzip.decompress((FASHION / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        labels[part] = whole[8 : 8 + count]
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(whole[:4] + count.to_bytes(4, "big") + labels[part])
    samples = torchvision("FashionMNIST", tmp_path)
    expected = np.frombuffer(labels["train"] + labels["t10k"], dtype=np.uint8)
    np.testing.assert_array_equal(samples.targets, expected)
    assert samples.label_names[0] == "T-shirt/top"
    assert samples.is_test is not None
    assert samples.is_test.tolist() == [False] * num_train + [True] * num_test
    last = num_train + num_test - 1
    grey = np.frombuffer(pixels["t10k"], dtype=np.uint8).reshape(-1, 28, 28)
    images = samples.images([last, num_train])
    np.testing.assert_array_equal(images, np.repeat(grey[[-1, 0]][..., None], 3, axis=-1))
    program = (
        "import sys; from fedgraft.data.settings import TorchvisionSettings as T\n"
        "from fedgraft.data.sources import load_samples\n"
        f"samples = load_samples(T(name='torchvision:FashionMNIST', root={str(tmp_path)!r}), 1)\n"
        "print(samples.digest(), [name for name in ('torch', 'torchvision', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=dict(os.environ))
    assert (done.stdout, done.stderr) == (f"{samples.digest()} []\n", "")


def test_a_torchvision_data_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't be opened in .*put the data set's files there.*download: true"):
        torchvision("FashionMNIST", tmp_path)


def test_a_torchvision_data_set_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="torchvision has no data set 'FashionMnist'; did you mean 'FashionMNIST'"):
        torchvision("FashionMnist", tmp_path)


def test_a_torchvision_data_set_without_classes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't be opened in"):
        torchvision("CocoDetection", tmp_path)


def test_a_download_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise OSError("the network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(DataError, match=r"can't download torchvision:FashionMNIST into .*copy the data set's files"):
        torchvision("FashionMNIST", tmp_path, download=True)
