"""A folder of images: one sub-folder a class, optionally one level of site folders above."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedgraft.data.class_folders import FileKind, class_folders
from fedgraft.data.image_files import readable
from fedgraft.data.images import SUFFIXES
from fedgraft.data.labels import classes, label_names
from fedgraft.data.samples import Samples
from fedgraft.data.settings import FolderSettings

_IMAGES = FileKind(
    one="image",
    several="images",
    suffixes=SUFFIXES,
    single="use the source csv for a table or arrays for an .npz file",
    elsewhere="list them in a csv",
)


def load(settings: FolderSettings, seed: int) -> Samples:
    """Return the images of a folder; ids are paths relative to it. `seed` is not used.

    Raises:
        DataError: the folder is missing or empty, or its levels are not as the setting `sites` says.
    """
    root = Path(settings.path).expanduser()
    source = f"folder {root}"
    found = class_folders(root, settings.sites, _IMAGES)
    labels = found.labels
    names = label_names(labels, settings.labels, source)
    good, inputs, notes = readable(root, found.files, source)
    kept = np.flatnonzero(good).tolist()
    return Samples(
        inputs=inputs,
        targets=classes([labels[number] for number in kept], names),
        task="classes",
        label_names=names,
        sample_ids=np.array(inputs.names),
        natural_client=np.array([name.split("/")[0] for name in inputs.names]) if settings.sites else None,
        notes=(*notes, *found.notes),
    )
