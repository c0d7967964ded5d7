"""The data of a site: readable, how many of each label, which sizes, what stands there twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients.site.check.findings import Finding, fault, ok, warning
from clients.site.policy import read_policy
from clients.site.settings import PolicySettings
from fedgraft.data.samples import Samples
from fedgraft.data.settings import SourceSettings
from fedgraft.data.sources import load_samples
from fedgraft.deployment.kits import SiteFolder
from fedgraft.errors import FedGraftError, listed

MOST_DECODED = 300
"""Images that are decoded to see their sizes, spread evenly over the data."""

SMALLEST_SIDE = 32
"""Pixels below which an image says little to a backbone that was trained at 224."""


def data(folder: SiteFolder) -> Iterator[Finding]:
    """Look at the data."""
    settings = folder.settings.data
    if settings is None:
        yield fault(
            "data", "site.yaml does not say where they are", "fill in `data:`, e.g. {source: {name: folder, ...}}"
        )
        return
    try:
        samples = load_samples(settings.source, seed=0)
    except (FedGraftError, OSError) as error:
        yield fault("data", str(error), "mend the data, or `data.source` in site.yaml")
        return
    yield _count(samples, settings.source)
    for note in samples.notes:
        yield warning("data", note, "look whether that is meant")
    if settings.clients == "natural" and samples.natural_client is None:
        yield fault("clients", "the data name no owners, as `clients: natural` needs", "set data.clients to one")
    yield from _labels(folder, samples)
    try:
        yield from _inputs(samples)
    except (FedGraftError, OSError) as error:
        yield fault(samples.kind, str(error), "mend or remove the file")


def _count(samples: Samples, source: SourceSettings) -> Finding:
    text = f"{samples.num_samples:,} {'feature vectors' if samples.kind == 'features' else samples.kind}"
    path = getattr(source, "path", None)
    text += f" in {Path(path)}" if path else f" of {source.name}"
    if samples.is_test is not None:
        text += f", {int(samples.is_test.sum()):,} of them in an official test part, which is not trained on"
    return ok("data", text)


def _labels(folder: SiteFolder, samples: Samples) -> Iterator[Finding]:
    """Compare labels with the federation's, and count them."""
    expected, found = folder.settings.labels, samples.label_names
    if samples.task != "real" and expected is not None and tuple(found) != tuple(expected):
        yield fault("labels", _difference(expected, found), "rename folders or values, or set data.source.labels")
    elif samples.task != "real" and expected is not None:
        yield ok("labels", f"the federation's {len(expected)}, in its order")
    elif samples.task != "real":
        yield warning("labels", f"{listed(found)}; the federation named none", "compare them with the other sites'")
    if samples.task != "classes":
        return
    counts = np.bincount(samples.targets.astype(np.int64), minlength=len(found))
    yield ok("counts", ", ".join(f"{name} {count:,}" for name, count in list(zip(found, counts, strict=True))[:12]))
    yield from _rare(found, counts, _rules(folder))


def _difference(expected: Sequence[str], found: Sequence[str]) -> str:
    missing, surplus = [sorted(set(a) - set(b)) for a, b in ((expected, found), (found, expected))]
    parts = [f"missing {listed(missing)}"] if missing else []
    parts += [f"unknown {listed(surplus)}"] if surplus else []
    parts = parts or ["the same, in another order"]
    return f"not the federation's ({listed(expected)}): {'; '.join(parts)}; here {listed(found)}"


def _rules(folder: SiteFolder) -> PolicySettings:
    try:
        return read_policy(folder.policy)
    except (FedGraftError, OSError):
        return PolicySettings()


def _rare(names: Sequence[str], counts: NDArray[np.int64], rules: PolicySettings) -> Iterator[Finding]:
    empty = [name for name, count in zip(names, counts, strict=True) if count == 0]
    few = [name for name, count in zip(names, counts, strict=True) if 0 < count < rules.smallest_class]
    if empty:
        yield warning(
            "empty classes", f"no samples of {listed(empty)}", "nothing, if there are none; else look for them"
        )
    if few:
        text = f"fewer than {rules.smallest_class} samples of {listed(few)}"
        yield warning("rare classes", text, "the policy refuses statistics with them (smallest_class)")
    if counts.sum() < rules.smallest_cohort:
        text = f"{int(counts.sum())} samples in all, fewer than {rules.smallest_cohort}"
        yield warning("few samples", text, "the policy refuses statistics of them (smallest_cohort)")


def _inputs(samples: Samples) -> Iterator[Finding]:
    """Look at sizes, and at what stands there more than once."""
    if samples.kind == "images":
        yield from _sizes(samples)
    _, first, owners, times = np.unique(
        samples.inputs.digests(), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    surplus = int(times.sum() - len(times))
    if not surplus:
        yield ok("duplicates", "none")
        return
    share = surplus / samples.num_samples
    text = f"{surplus:,} of {samples.num_samples:,} samples ({share:.1%}) stand there more than once"
    yield warning("duplicates", text, "remove copies: between training and validation parts they make results too good")
    if samples.task == "classes":
        differ = samples.targets != samples.targets[first][np.asarray(owners).reshape(-1)]
        if differ.any():
            text = f"{int(differ.sum()):,} copies have another label than the first of their kind"
            yield warning("contradictions", text, "find out which label is right")


def _sizes(samples: Samples) -> Iterator[Finding]:
    step = max(1, samples.num_samples // MOST_DECODED)
    chosen = np.arange(0, samples.num_samples, step, dtype=np.int64)
    sides = np.array([image.shape[:2] for image in samples.images(chosen)])
    low, high = sides.min(axis=0), sides.max(axis=0)
    text = f"{low[0]} x {low[1]}" if (low == high).all() else f"from {low[0]} x {low[1]} to {high[0]} x {high[1]}"
    text += f" px (height x width), {len(chosen):,} looked at"
    if low.min() < SMALLEST_SIDE:
        yield warning("image sizes", text, f"below {SMALLEST_SIDE} px there is little to see; are these thumbnails?")
    else:
        yield ok("image sizes", text)
