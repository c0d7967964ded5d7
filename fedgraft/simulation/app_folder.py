"""A Flower app folder made from FedGraft's own packages, wherever they are installed."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import fedgraft
from fedgraft.errors import LaunchError

PACKAGES = ("fedgraft", "server", "clients", "strategies", "scenarios")
SUFFIXES = (".py", ".yaml", ".yml", ".json")  # what a Flower bundle takes, less prose and other projects' TOML

_PYPROJECT = """\
[project]
name = "fedgraft"
version = {version}
description = {description}
license = "Apache-2.0"
dependencies = {dependencies}

[tool.flwr.app]
publisher = "fedgraft"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"

[tool.flwr.app.config]
scenario = "quickstart"
"""


def app_folder(destination: Path) -> Path:
    """Copy FedGraft's code to a folder that `flwr run` takes as an app, and return that folder.

    A user of the installed package has no checkout to run, and a checkout holds much that is no part of the
    app. The packages are taken from beside the imported `fedgraft`, not looked up by name: `server` and
    `clients` are names that another project in the working folder may well have too.

    Args:
        destination: the folder in which `fedgraft/` is made; it may exist, but not hold a `fedgraft/` yet.

    Raises:
        LaunchError: a package is missing.
    """
    source = Path(fedgraft.__file__).resolve().parent.parent
    folder = destination / "fedgraft"  # Flower wants a letter first, then letters, digits and hyphens
    for package in PACKAGES:
        if not (source / package / "__init__.py").is_file():
            raise LaunchError(
                f"FedGraft's package '{package}' was expected beside 'fedgraft' in {source} and is not there; "
                "install FedGraft again (pip install --force-reinstall fedgraft)"
            )
        _copy(source / package, folder / package)
    (folder / "pyproject.toml").write_text(_pyproject(), encoding="utf-8")
    return folder


def _copy(source: Path, destination: Path) -> None:
    """Copy a package's code and settings; caches and hidden folders stay behind."""
    for path in sorted(source.rglob("*")):
        parts = path.relative_to(source).parts
        if path.suffix not in SUFFIXES or any(part == "__pycache__" or part.startswith(".") for part in parts):
            continue
        target = destination.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)  # contents of a link, too: Flower's bundles leave links out


def _pyproject() -> str:
    """Return the app's pyproject.toml; the strings are JSON, which TOML reads alike."""
    try:
        metadata = importlib.metadata.metadata("fedgraft")
        description = metadata["Summary"] or "FedGraft"
        requirements = importlib.metadata.requires("fedgraft") or []
    except importlib.metadata.PackageNotFoundError:  # run from an unpacked archive that was never installed
        description, requirements = "FedGraft", ["flwr[simulation]>=1.41,<1.42"]
    return _PYPROJECT.format(
        version=json.dumps(fedgraft.__version__),
        description=json.dumps(description),
        dependencies=json.dumps([line for line in requirements if "extra ==" not in line]),
    )
