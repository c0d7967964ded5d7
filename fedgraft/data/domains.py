"""Domain shifts made of one source: some clients' pictures are turned, inverted, faded or made noisy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fedgraft.data.samples import Image, ImageInputs, Images, Indices
from fedgraft.data.settings import DomainSettings
from fedgraft.errors import DataError
from fedgraft.kinds import WORDS
from fedgraft.randomness import key, mix, rng

if TYPE_CHECKING:
    from fedgraft.data.federation import Federation


def with_domains(federation: Federation, domains: tuple[DomainSettings, ...], seed: int) -> Federation:
    """Return the federation with each client's pictures, and the test part's, as those of a domain.

    Clients get their domains in the order of their names, as evenly as the shares allow; samples of the test part in a
    random order. A sample's group is the name of its domain, whatever groups the data name.

    Args:
        federation: as it was divided.
        domains: the domains.
        seed: the scenario's.

    Raises:
        DataError: the source gives no pictures.
    """
    samples = federation.samples
    if samples.kind != "images":
        gives = WORDS[samples.kind]
        raise DataError(f"data.domains change pictures, and this source gives {gives}; leave domains out")
    of_sample = np.zeros(samples.num_samples, dtype=np.int64)
    of_client = dealt(federation.num_clients, [domain.share for domain in domains])
    for part in (federation.train, federation.validation, federation.unlabelled):
        of_sample[part.indices] = of_client[part.owners]
    with np.errstate(over="ignore"):
        draws = mix(key(seed, "domains of the test part", 0, federation.test.astype(np.uint64)))
    shares = [domain.share if domain.test_share is None else domain.test_share for domain in domains]
    of_sample[federation.test[np.argsort(draws, kind="stable")]] = dealt(len(federation.test), shares)
    names = np.array([domain.name for domain in domains])
    inputs = ShiftedInputs(cast(ImageInputs, samples.inputs), of_sample, domains, seed)
    counts = np.bincount(of_client, minlength=len(domains))
    told = ", ".join(f"{domain.name} {count:,}" for domain, count in zip(domains, counts.tolist(), strict=True))
    notes = (*federation.notes, f"clients by domain (data.domains): {told}")
    return replace(federation, samples=replace(samples, inputs=inputs, group=names[of_sample]), notes=notes)


def dealt(count: int, shares: Sequence[float]) -> NDArray[np.int64]:
    """Return which of the shares each of `count` takes, `(count,)`: always the one that is furthest behind.

    Raises:
        DataError: there are some to deal, and all shares are 0.
    """
    if count and not sum(shares):
        raise DataError("all shares of data.domains are 0; give one of them more")
    wanted, had = np.array(shares, dtype=np.float64), np.zeros(len(shares))
    result = np.zeros(count, dtype=np.int64)
    for number in range(count):
        behind = wanted / wanted.sum() * (number + 1) - had
        result[number] = int(np.argmax(np.where(wanted > 0, behind, -np.inf)))
        had[result[number]] += 1
    return result


@dataclass(frozen=True, eq=False)
class ShiftedInputs:
    """Pictures of a source, each as its domain shows it.

    Attributes:
        inputs: the source's own.
        of_sample: `(num_samples,)` each sample's domain.
        domains: the domains.
        seed: for noise.
    """

    inputs: ImageInputs
    of_sample: NDArray[np.int64]
    domains: tuple[DomainSettings, ...]
    seed: int
    kind: Literal["images"] = "images"

    def images(self, indices: Indices) -> Images:
        """Read the images at `indices`, and show them as their domains do."""
        found = self.inputs.images(indices)
        shown = [self._shown(image, int(index)) for image, index in zip(found, indices, strict=True)]
        return np.stack(shown) if isinstance(found, np.ndarray) and shown else shown if shown else found

    def digests(self) -> NDArray[np.uint8]:
        """Return a digest of each picture as it is shown, `(num_samples, 16)`; an unchanged one has the source's."""
        digests = np.array(self.inputs.digests())
        for number, domain in enumerate(self.domains):
            if domain.changes:
                look = domain.model_dump_json(exclude={"name", "share", "test_share"})
                for index in np.flatnonzero(self.of_sample == number).tolist():
                    own = f"{look}{self.seed if domain.noise else ''}{index if domain.noise else ''}"
                    state = hashlib.blake2b(digests[index].tobytes() + own.encode(), digest_size=16)
                    digests[index] = np.frombuffer(state.digest(), dtype=np.uint8)
        return digests

    def _shown(self, image: Image, index: int) -> Image:
        domain = self.domains[self.of_sample[index]]
        return shown(image, domain, rng(self.seed, "noise of a domain", index)) if domain.changes else image


def shown(image: Image, domain: DomainSettings, generator: np.random.Generator) -> Image:
    """Return a picture `(H, W, 3)` uint8 as a domain shows it: turned, inverted, contrast, brightness, then noise.

    Args:
        image: as the source has it.
        domain: how it is shown.
        generator: for the noise.
    """
    if domain.rotate:
        import PIL.Image

        turned = PIL.Image.fromarray(image).rotate(domain.rotate, PIL.Image.Resampling.BILINEAR)
        image = np.asarray(turned)
    values = image.astype(np.float64)
    if domain.invert:
        values = 255.0 - values
    values = (values - 127.5) * domain.contrast + 127.5 + 255.0 * domain.brightness
    if domain.noise:
        values += 255.0 * domain.noise * generator.standard_normal(values.shape)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
