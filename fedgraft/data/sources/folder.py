"""A folder of images: one sub-folder a class, optionally one level of site folders above."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fedgraft.data.image_files import FileState, readable
from fedgraft.data.images import SUFFIXES
from fedgraft.data.labels import classes, label_names
from fedgraft.data.notes import counted
from fedgraft.data.samples import Samples
from fedgraft.data.settings import FolderSettings
from fedgraft.errors import DataError, listed, nearest

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))


@dataclass
class _Listing:
    """What one folder holds, names ascending; hidden entries are passed over."""

    folders: list[str] = field(default_factory=list)
    images: list[FileState] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def _listing(root: Path, inside: str = "") -> _Listing:
    """List the folder `inside` of the root; names are relative to the root, with slashes."""
    found = _Listing()
    try:
        entries = sorted(os.scandir(root / inside), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"can't read the folder {root / inside}: {error.strerror}") from error
    for entry in entries:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found.folders.append(name)
        elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
            state = entry.stat()
            found.images.append(FileState(name, state.st_size, state.st_mtime_ns))
        else:
            found.others.append(name)
    return found


def load(settings: FolderSettings, seed: int) -> Samples:
    """Return the images of a folder; ids are paths relative to it. `seed` is not used.

    Raises:
        DataError: the folder is missing or empty, or its levels are not as the setting `sites` says.
    """
    root = Path(settings.path).expanduser()
    top = _top(root)
    source = f"folder {root}"
    groups = top.folders
    if settings.sites:
        groups = [name for site in top.folders for name in _classes_of_site(root, site)]
    listings = {name: _listing(root, name) for name in groups}
    files = [file for name in groups for file in listings[name].images]
    if not files:
        raise _no_images(root, settings.sites, listings)
    labels = [file.name.split("/")[-2] for file in files]
    names = label_names(labels, settings.labels, source)
    good, inputs, notes = readable(root, files, source)
    kept = np.flatnonzero(good).tolist()
    return Samples(
        inputs=inputs,
        targets=classes([labels[number] for number in kept], names),
        task="classes",
        label_names=names,
        sample_ids=np.array(inputs.names),
        natural_client=np.array([name.split("/")[0] for name in inputs.names]) if settings.sites else None,
        notes=(*notes, *_notes(top, listings)),
    )


def _top(root: Path) -> _Listing:
    if not root.exists():
        siblings = [entry.name for entry in root.parent.iterdir()] if root.parent.is_dir() else []
        raise DataError(
            f"the folder {root} does not exist{nearest(root.name, siblings)} (expected one sub-folder of images "
            "a class)"
        )
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder; use the source csv for a table or arrays for an .npz file")
    top = _listing(root)
    if top.folders:
        return top
    if top.images:
        raise DataError(
            f"the folder {root} holds {len(top.images)} images and no sub-folders; put the images of each class "
            "into a sub-folder named after the class, or list them in a csv"
        )
    raise DataError(f"the folder {root} is empty: expected one sub-folder of images a class")


def _classes_of_site(root: Path, site: str) -> list[str]:
    found = _listing(root, site)
    if found.images:
        raise DataError(
            f"with sites: true, {root / site} is a site and should hold class folders, but it holds images "
            f"({found.images[0].name.split('/')[-1]}, ...); set sites: false if it is a class, or move them"
        )
    return found.folders


def _no_images(root: Path, sites: bool, listings: dict[str, _Listing]) -> DataError:
    """Say what the folder looks like instead."""
    below = [name for listing in listings.values() for name in listing.folders]
    if below and not sites:
        hint = f"the folder {root} has no images in its sub-folders, but folders ({listed(below, 3)})"
        if {name.lower() for name in listings} <= _SPLITS:
            return DataError(f"{hint}; point path at one of {listed(listings)}, or list the images in a csv")
        return DataError(f"{hint}; if these are sites with class folders inside, set sites: true")
    level = "sites/classes" if sites else "classes"
    known = ", ".join(sorted(SUFFIXES))
    return DataError(f"the folder {root} holds no images in its {level} sub-folders (images are {known})")


def _notes(top: _Listing, listings: dict[str, _Listing]) -> list[str]:
    """Say in one line each what was passed over."""
    others = [*top.others, *(name for listing in listings.values() for name in listing.others)]
    others += [file.name for file in top.images]
    deeper = [name for listing in listings.values() for name in listing.folders]
    empty = [name for name, listing in listings.items() if not listing.images]
    siteless = [name for name in top.folders if name not in {group.split("/")[0] for group in listings}]
    return [
        *counted(others, "file passed over (no image of a class)", "files passed over (no images of a class)"),
        *counted(deeper, "folder inside a class folder not read", "folders inside class folders not read"),
        *counted(empty, "folder without images left out", "folders without images left out"),
        *counted(siteless, "site without class folders left out", "sites without class folders left out"),
    ]
