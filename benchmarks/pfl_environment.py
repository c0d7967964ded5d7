"""The virtual environment of pfl-research: made once, below the user's cache, and used again.

pfl-research 0.6 wants attrs and dp-accounting of other versions than Flower does. PyTorch is borrowed from the
environment that runs the benchmark: the same build does the same work, and some gigabytes are not installed twice.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = ("pfl==0.6.0", "attrs==23.2.0", "dp-accounting==0.5.1")


class NotInstalledError(Exception):
    """pfl-research can't be installed here; says why in one line."""


def environment_python() -> Path:
    """Return the Python of pfl-research's environment; make the environment if it is not there.

    Raises:
        NotInstalledError: it can't be made.
    """
    from fedgraft.files import cache_directory

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache_directory() / "benchmarks" / f"pfl-python-{version}"
    python, whole = folder / "bin" / "python", folder / "whole"
    if not whole.exists() or whole.read_text() != "\n".join(REQUIREMENTS):
        print(f"installing {REQUIREMENTS[0]} into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        _call([sys.executable, "-m", "venv", str(folder)])
        _call([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS])
        whole.write_text("\n".join(REQUIREMENTS))
    _borrow(folder)
    _call([str(python), "-c", "import pfl.model.pytorch, fedgraft.randomness"])
    return python


def _borrow(folder: Path) -> None:
    """Let the environment import torch and FedGraft from where this process has them, after its own packages."""
    found = [importlib.util.find_spec(name) for name in ("torch", "fedgraft")]
    paths = [str(Path(spec.origin).parents[1]) for spec in found if spec is not None and spec.origin is not None]
    packages = next(iter(folder.glob("lib/python*/site-packages")), None)
    if packages is None:
        raise NotInstalledError(f"{folder} is no virtual environment; remove it")
    (packages / "borrowed.pth").write_text("\n".join(paths) + "\n")


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise NotInstalledError(f"{' '.join(command[1:4])}: {errors[0]}")
