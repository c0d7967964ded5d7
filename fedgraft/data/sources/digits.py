"""The handwritten digits that scikit-learn carries, read without importing scikit-learn.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
doi:10.24432/C50P49 (the test part of it: 1,797 images of 8 x 8 pixels, grey values 0 to 16).
"""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.samples import Indices, Samples, content_digests, numbered
from fedgraft.data.settings import DigitsSettings
from fedgraft.errors import DataError


def _table() -> NDArray[np.int64]:
    """Return the file's `(1797, 65)` numbers: 64 grey values of 0 to 16, then the class."""
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise DataError("the digits come with scikit-learn, which is not installed: pip install scikit-learn")
    path = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        text = gzip.decompress(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise DataError(f"can't read scikit-learn's digits at {path}: {error}; reinstall it") from error
    return np.array([line.split(",") for line in text.split()], dtype=np.float64).astype(np.int64)


@dataclass(frozen=True)
class _GreyImages:
    grey: NDArray[np.uint8]  # (N, H, W)
    kind: Literal["images"] = "images"

    def images(self, indices: Indices) -> NDArray[np.uint8]:
        return np.repeat(self.grey[indices][..., None], 3, axis=-1)

    def digests(self) -> NDArray[np.uint8]:
        return content_digests(self.grey)


def load(settings: DigitsSettings, seed: int) -> Samples:
    """Return the 1,797 digits, grey values scaled to 0 to 255; `seed` is not used."""
    table = _table()
    grey = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return Samples(
        inputs=_GreyImages(grey),
        targets=table[:, 64],
        task="classes",
        label_names=tuple("0123456789"),
        sample_ids=numbered(len(table)),
    )
