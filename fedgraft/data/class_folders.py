"""Folders with one sub-folder of files a class, optionally one level of site folders above: what is where."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from fedgraft.data.inspected import FileState
from fedgraft.data.notes import counted
from fedgraft.errors import DataError, listed, nearest

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))


@dataclass(frozen=True)
class FileKind:
    """What lies in the class folders.

    Attributes:
        one: what one of them is called.
        several: what several are called.
        suffixes: by which they are known, in small letters.
        single: what to do where a file is given in place of a folder.
        elsewhere: how else they can be given.
    """

    one: str
    several: str
    suffixes: frozenset[str]
    single: str
    elsewhere: str


@dataclass(frozen=True)
class ClassFolders:
    """The files of all classes, ascending by folder, and a line each about what was passed over."""

    root: Path
    files: tuple[FileState, ...]
    notes: tuple[str, ...]

    @property
    def labels(self) -> list[str]:
        """Return the class of each file."""
        return [file.name.split("/")[-2] for file in self.files]


@dataclass
class _Listing:
    """What one folder holds, names ascending; hidden entries are passed over."""

    folders: list[str] = field(default_factory=list)
    files: list[FileState] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def class_folders(root: Path, sites: bool, kind: FileKind) -> ClassFolders:
    """Return what lies in the class folders below a folder.

    Args:
        root: the folder.
        sites: whether a level of sites stands above the classes.
        kind: which files are wanted.

    Raises:
        DataError: the folder is missing or empty, or its levels are not as `sites` says.
    """
    top = _top(root, kind)
    groups = top.folders
    if sites:
        groups = [name for site in top.folders for name in _classes_of_site(root, site, kind)]
    listings = {name: _listing(root, kind, name) for name in groups}
    files = tuple(file for name in groups for file in listings[name].files)
    if not files:
        raise _nothing(root, sites, listings, kind)
    return ClassFolders(root, files, tuple(_notes(top, listings, kind)))


def _listing(root: Path, kind: FileKind, inside: str = "") -> _Listing:
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
        elif Path(entry.name).suffix.lower() in kind.suffixes and entry.is_file():
            state = entry.stat()
            found.files.append(FileState(name, state.st_size, state.st_mtime_ns))
        else:
            found.others.append(name)
    return found


def _top(root: Path, kind: FileKind) -> _Listing:
    if not root.exists():
        siblings = [entry.name for entry in root.parent.iterdir()] if root.parent.is_dir() else []
        raise DataError(
            f"the folder {root} does not exist{nearest(root.name, siblings)} (expected one sub-folder of "
            f"{kind.several} a class)"
        )
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder; {kind.single}")
    top = _listing(root, kind)
    if top.folders:
        return top
    if top.files:
        raise DataError(
            f"the folder {root} holds {len(top.files)} {kind.several} and no sub-folders; put the {kind.several} of "
            f"each class into a sub-folder named after the class, or {kind.elsewhere}"
        )
    raise DataError(f"the folder {root} is empty: expected one sub-folder of {kind.several} a class")


def _classes_of_site(root: Path, site: str, kind: FileKind) -> list[str]:
    found = _listing(root, kind, site)
    if found.files:
        raise DataError(
            f"with sites: true, {root / site} is a site and should hold class folders, but it holds {kind.several} "
            f"({found.files[0].name.split('/')[-1]}, ...); set sites: false if it is a class, or move them"
        )
    return found.folders


def _nothing(root: Path, sites: bool, listings: dict[str, _Listing], kind: FileKind) -> DataError:
    """Say what the folder looks like instead."""
    below = [name for listing in listings.values() for name in listing.folders]
    if below and not sites:
        hint = f"the folder {root} has no {kind.several} in its sub-folders, but folders ({listed(below, 3)})"
        if {name.lower() for name in listings} <= _SPLITS:
            return DataError(f"{hint}; point path at one of {listed(listings)}, or {kind.elsewhere}")
        return DataError(f"{hint}; if these are sites with class folders inside, set sites: true")
    level = "sites/classes" if sites else "classes"
    known = ", ".join(sorted(kind.suffixes))
    return DataError(
        f"the folder {root} holds no {kind.several} in its {level} sub-folders ({kind.several} are {known})"
    )


def _notes(top: _Listing, listings: dict[str, _Listing], kind: FileKind) -> list[str]:
    """Say in one line each what was passed over."""
    others = [*top.others, *(name for listing in listings.values() for name in listing.others)]
    others += [file.name for file in top.files]
    deeper = [name for listing in listings.values() for name in listing.folders]
    empty = [name for name, listing in listings.items() if not listing.files]
    siteless = [name for name in top.folders if name not in {group.split("/")[0] for group in listings}]
    return [
        *counted(
            others, f"file passed over (no {kind.one} of a class)", f"files passed over (no {kind.several} of a class)"
        ),
        *counted(deeper, "folder inside a class folder not read", "folders inside class folders not read"),
        *counted(empty, f"folder without {kind.several} left out", f"folders without {kind.several} left out"),
        *counted(siteless, "site without class folders left out", "sites without class folders left out"),
    ]
