"""Feature extraction against a bare `torch.inference_mode` loop over the same images.

    python benchmarks/extraction.py [--images N] [--repeats R] [--threads T] [--json FILE]

The bare loop gets its images decoded, resized, normalised and in channels-last memory, all before the clock
starts, and keeps its results in memory: it is the backbone and nothing else. It gets our batch size, which is the
faster one; a line shows what batches of 64 cost at 224 px. Ours is everything that a cold run
does once the backbone is loaded: digests of the samples, reading, resizing, normalising, the backbone, finiteness
checks, writing, checksum, flush to the disk and mapping the result. For photos a second loop is timed that reads
and resizes them inline, since that is what somebody without a store would write.

Runs alternate (bare, ours, bare, ours, ...), and the ratio is the median of the ratios of neighbouring runs, so
that a machine that other work slows down slows both. A ratio of 0.9 means 90 % of the bare loop's images/s.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fedgraft.data.samples import Samples
from fedgraft.data.settings import DigitsSettings, FolderSettings
from fedgraft.data.sources import load_samples
from fedgraft.features.entry import Origin
from fedgraft.features.extract import compute
from fedgraft.features.inputs import images_at_once
from fedgraft.features.preprocessing import normalised, resized
from fedgraft.features.rows import RowWriter
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.models.backbone import Backbone
from fedgraft.models.registry import load
from fedgraft.models.settings import BackboneSettings

GOAL = 0.9
BATCH_SIZE = FeatureSettings().batch_size
OUR_BATCHES, BATCHES_OF_64, READS_INLINE = "in memory, our batches", "in memory, batches of 64", "reads inline"


@dataclass(frozen=True)
class Result:
    """One line of the table; `ratio` is ours over the loop's images/s, the median of paired runs."""

    images: str
    input_size: int
    num_images: int
    loop: str
    loop_batch_size: int
    loop_images_per_second: float
    our_images_per_second: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    largest_difference: float
    """max|a-b| / max|b| of the features."""


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the wall time of one call, and what it returned."""
    start = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - start, result


def write_photos(folder: Path, num_images: int, width: int = 640, height: int = 480) -> None:
    """Write JPEG files with the detail of a photo: noise at several scales."""
    from PIL import Image

    draw = np.random.default_rng(1)
    for number in range(num_images):
        picture = np.zeros((height, width, 3))
        for scale in (4, 16, 64):
            coarse = draw.integers(0, 256, (-(-height // scale), -(-width // scale), 3))
            picture += np.kron(coarse, np.ones((scale, scale, 1)))[:height, :width] / 3
        path = folder / f"class-{number % 2}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(np.uint8)).save(path, quality=90)


def bare(backbone: Backbone, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return features of normalised images, as anyone would write it."""
    model: Any = backbone.model
    with torch.inference_mode():
        parts = [
            model.forward_head(model.forward_features(images[start : start + batch_size]), pre_logits=True)
            for start in range(0, len(images), batch_size)
        ]
        return torch.cat(parts)


def read_inline(backbone: Backbone, samples: Samples, num_images: int, batch_size: int) -> torch.Tensor:
    """Return features of pictures that are read and resized between the batches."""
    preprocessing = backbone.info.preprocessing
    parts = []
    for start in range(0, num_images, batch_size):
        indices = np.arange(start, min(start + batch_size, num_images))
        pixels = resized(samples.images(indices), preprocessing)
        parts.append(bare(backbone, normalised(pixels, preprocessing), batch_size))
    return torch.cat(parts)


def ours(backbone: Backbone, samples: Samples, num_images: int, store: FeatureStore) -> np.ndarray[Any, Any]:
    """Return features by way of the store, which must be empty."""

    def fill(rows: RowWriter) -> None:
        rows.allocate(backbone.info.feature_dim)
        compute(samples, backbone, np.arange(num_images), rows.write, BATCH_SIZE)

    info = backbone.info
    origin = Origin(info.key(), info.name, info.cut, info.weights_digest, info.preprocessing.key(), "a benchmark")
    return store.get_or_fill(origin, "float32", samples.sample_digests()[:num_images], fill)


def compare(name: str, samples: Samples, input_size: int, num_images: int, loop: str, repeats: int) -> Result:
    """Time both, alternating."""
    backbone = load(BackboneSettings(input_size=input_size))
    assert isinstance(backbone, Backbone)
    preprocessing = backbone.info.preprocessing
    num_images = min(num_images, samples.num_samples)
    batch_size = BATCH_SIZE if loop == BATCHES_OF_64 else images_at_once(input_size, BATCH_SIZE)
    images = normalised(resized(samples.images(np.arange(num_images)), preprocessing), preprocessing)
    bare(backbone, images[:batch_size], batch_size)  # warm up
    loop_seconds, our_seconds, differences = [], [], []
    for _ in range(repeats):
        if loop == READS_INLINE:
            duration, tensor = timed(read_inline, backbone, samples, num_images, batch_size)
        else:
            duration, tensor = timed(bare, backbone, images, batch_size)
        loop_seconds.append(duration)
        with tempfile.TemporaryDirectory() as folder:
            duration, found = timed(ours, backbone, samples, num_images, FeatureStore(Path(folder)))
            our_seconds.append(duration)
            expected = tensor.numpy()
            differences.append(float(np.abs(found - expected).max() / np.abs(expected).max()))
    ratios = [theirs / our for theirs, our in zip(loop_seconds, our_seconds, strict=True)]
    return Result(
        images=name,
        input_size=input_size,
        num_images=num_images,
        loop=loop,
        loop_batch_size=batch_size,
        loop_images_per_second=num_images / statistics.median(loop_seconds),
        our_images_per_second=num_images / statistics.median(our_seconds),
        ratio=statistics.median(ratios),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
        largest_difference=max(differences),
    )


def table(results: list[Result]) -> Table:
    """Return the results as a table."""
    shown = Table(title="Feature extraction, bundled:efficientnet_lite0: ours against a bare loop")
    for title in ("images", "px", "count", "the loop", "loop/s", "ours/s", "ratio", "range", "differ"):
        shown.add_column(title, justify="left" if title in ("images", "the loop") else "right", no_wrap=True)
    for result in results:
        shown.add_row(
            result.images,
            str(result.input_size),
            str(result.num_images),
            result.loop,
            f"{result.loop_images_per_second:.0f}",
            f"{result.our_images_per_second:.0f}",
            f"{result.ratio:.2f}",
            f"{result.lowest_ratio:.2f}-{result.highest_ratio:.2f}",
            f"{result.largest_difference:.1g}",
        )
    return shown


def main() -> None:
    """Run the benchmark; the exit status is 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="images at 64 px; a quarter of it of the others")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    parser.add_argument("--threads", type=int, help="torch's threads, for both; default: torch's own choice")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    arguments = parser.parse_args()
    fewer = max(1, arguments.images // 4)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    digits = load_samples(DigitsSettings(), seed=1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), fewer)
        photos = load_samples(FolderSettings(path=folder), seed=1)
        for name, samples, size, count, loop in (
            ("digits 8x8", digits, 64, arguments.images, OUR_BATCHES),
            ("digits 8x8", digits, 224, fewer, OUR_BATCHES),
            ("digits 8x8", digits, 224, fewer, BATCHES_OF_64),
            ("JPEG 640x480", photos, 64, fewer, READS_INLINE),
            ("JPEG 640x480", photos, 224, fewer, READS_INLINE),
        ):
            results.append(compare(name, samples, size, count, loop, arguments.repeats))
    console = Console(width=110)
    console.print(table(results))
    conditions = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "goal": GOAL,
    }
    console.print(f"torch {conditions['torch']}, {conditions['threads']} threads, {conditions['processor']}")
    if arguments.json is not None:
        content = {"conditions": conditions, "results": [asdict(result) for result in results]}
        arguments.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    raise SystemExit(0 if all(result.ratio >= GOAL for result in results) else 1)


if __name__ == "__main__":
    main()
