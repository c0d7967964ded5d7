"""Gaussian samples of any number and size; each is a pure function of the settings, the seed and its number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.cache import digest_of
from fedgraft.data.samples import Indices, Names, Samples, Targets, numbered
from fedgraft.data.settings import SyntheticSettings
from fedgraft.randomness import GAMMA, mix, rng

_BLOCK = 256  # samples that share one generator: random access reads at most one block too much
_COARSE = 4  # a class's image is a pattern of 4 x 4 colours, so that it survives resizing


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """Inputs: `separation / sqrt(2) * code @ directions + noise`, so two class centres lie `separation` apart.

    The code of a class is one-hot; several labels and real targets are their own code.
    """

    settings: SyntheticSettings
    seed: int
    targets: Targets
    num_outputs: int

    @property
    def kind(self) -> Literal["images", "features"]:
        return self.settings.kind

    @property
    def _width(self) -> int:
        return self.settings.num_features if self.kind == "features" else _COARSE * _COARSE * 3

    def _directions(self) -> NDArray[np.float32]:
        normal = rng(self.seed, "synthetic directions").standard_normal((self.num_outputs, self._width))
        unit = normal / np.linalg.norm(normal, axis=1, keepdims=True)
        directions: NDArray[np.float32] = (unit * (self.settings.separation / np.sqrt(2))).astype(np.float32)
        return directions

    def _block(self, block: int, directions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the vectors of one block, `(_BLOCK or fewer, width)`."""
        generator = rng(self.seed, "synthetic noise", block)
        vectors = generator.standard_normal((_BLOCK, self._width), dtype=np.float32)
        targets = self.targets[block * _BLOCK : (block + 1) * _BLOCK]
        vectors = vectors[: len(targets)]
        if self.settings.task == "classes":
            vectors += directions[targets.astype(np.int64)]
        else:
            vectors += targets.reshape(len(targets), -1).astype(np.float32) @ directions
        return vectors

    def features(self) -> NDArray[np.float32]:
        result = np.empty((len(self.targets), self._width), dtype=np.float32)
        directions = self._directions()
        for block in range(-(-len(self.targets) // _BLOCK)):
            result[block * _BLOCK : (block + 1) * _BLOCK] = self._block(block, directions)
        return result

    def images(self, indices: Indices) -> NDArray[np.uint8]:
        """Return patterns of 4 x 4 colours, enlarged; 40 grey levels are one standard deviation."""
        coarse = np.empty((len(indices), self._width), dtype=np.float32)
        directions = self._directions()
        for block in np.unique(indices // _BLOCK).tolist():
            here = indices // _BLOCK == block
            coarse[here] = self._block(block, directions)[indices[here] % _BLOCK]
        levels = np.clip(np.rint(coarse * 40 + 128), 0, 255).astype(np.uint8)
        cell = np.arange(self.settings.image_size) * _COARSE // self.settings.image_size
        return levels.reshape(-1, _COARSE, _COARSE, 3)[:, cell][:, :, cell]

    def digests(self) -> NDArray[np.uint8]:
        """Return digests of how each input is made, as making it would cost more than it is worth."""
        size = self.settings.num_features if self.kind == "features" else self.settings.image_size
        made = ("synthetic-1", np.__version__, self.kind, str(size), repr(self.settings.separation))
        key = int(digest_of(*made, str(self.seed), self.targets.tobytes())[:16], 16)
        numbers = np.arange(len(self.targets), dtype=np.uint64)
        with np.errstate(over="ignore"):
            words = [mix(numbers * GAMMA + np.uint64((key + salt) % 2**64)) for salt in (0, 1)]
        return np.stack(words, axis=1).astype("<u8").view(np.uint8)


def _targets(settings: SyntheticSettings, seed: int) -> Targets:
    draw = rng(seed, "synthetic targets")
    if settings.task == "classes":
        # Equal classes, shuffled: every class is there as soon as there are as many samples as classes.
        return draw.permutation(np.arange(settings.num_samples) % settings.num_classes).astype(np.int64)
    if settings.task == "labels":
        return (draw.random((settings.num_samples, settings.num_classes)) < 0.3).astype(np.uint8)
    shape = settings.num_samples if settings.num_targets == 1 else (settings.num_samples, settings.num_targets)
    return draw.standard_normal(shape).astype(np.float32)


def _natural_clients(settings: SyntheticSettings) -> Names | None:
    if settings.num_clients is None:
        return None
    names = np.char.add("client-", numbered(settings.num_clients))
    return np.asarray(names[np.arange(settings.num_samples) * settings.num_clients // settings.num_samples])


def load(settings: SyntheticSettings, seed: int) -> Samples:
    """Return samples whose targets are drawn now and whose inputs are made when they are asked for."""
    targets = _targets(settings, seed)
    num_outputs = settings.num_targets if settings.task == "real" else settings.num_classes
    prefix = {"classes": "class", "labels": "label", "real": "target"}[settings.task]
    return Samples(
        inputs=_Gaussian(settings, seed, targets, num_outputs),
        targets=targets,
        task=settings.task,
        label_names=tuple(f"{prefix}-{number}" for number in numbered(num_outputs).tolist()),
        sample_ids=numbered(settings.num_samples),
        natural_client=_natural_clients(settings),
    )
