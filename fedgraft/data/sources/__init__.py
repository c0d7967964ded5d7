"""Sources: where samples come from, one file each; nothing heavy is imported before it is needed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from fedgraft.data.samples import Samples, check_samples
from fedgraft.data.settings import SourceSettings

_MODULES = {
    "synthetic": ("synthetic", "Gaussian features or images of any number and size, for scale and for tests"),
    "digits": ("digits", "1,797 handwritten digits of 8 x 8 pixels that scikit-learn carries"),
    "folder": ("folder", "one sub-folder of images a class, optionally under one folder a site"),
    "csv": ("table", "a table of image paths and labels, with optional client, group and id columns"),
    "text-csv": ("texts", "a table of texts and labels, with optional client, group and id columns"),
    "arrays": ("arrays", "one .npz file, or a folder of mapped .npy files, of images or features with labels"),
    "features": ("features", "ready features in a table (.csv, .parquet), one table a client, or arrays (.npz)"),
    "breast-cancer": ("packaged_tables", "569 tumours by 30 measures, malignant or benign; scikit-learn carries them"),
    "wine": ("packaged_tables", "178 wines of three cultivars by 13 measures; scikit-learn carries them"),
    "diabetes": ("packaged_tables", "442 patients by 10 measures, and how far their diabetes went: a real target"),
    "audio": ("audio", "recordings: one sub-folder of sound files a class, or one .npz file of all end to end"),
    "torchvision:<Dataset>": ("torchvision_datasets", "any classification data set of torchvision.datasets"),
    "sites": ("sites", "each site's own samples, for `fedgraft submit`"),
}


def load_samples(settings: SourceSettings, seed: int) -> Samples:
    """Read what a source says about its samples; inputs are read when they are asked for.

    `seed` decides synthetic samples and nothing else.

    Raises:
        DataError: the source is missing, unreadable, or makes no sense for the task.
    """
    kind = "torchvision:<Dataset>" if settings.name.startswith("torchvision:") else settings.name
    module = importlib.import_module(f"{__name__}.{_MODULES[kind][0]}")
    path = getattr(settings, "path", None)
    source = f"{settings.name} {Path(path).expanduser()}" if path else settings.name
    return check_samples(cast(Samples, module.load(settings, seed)), source, bool(getattr(settings, "labels", None)))


def source_names() -> tuple[tuple[str, str], ...]:
    """Return `(name, description)` of each source, for `fedgraft list sources`."""
    return tuple((name, description) for name, (_, description) in _MODULES.items())
