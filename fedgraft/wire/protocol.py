"""The numbers that stand in everything that crosses a border or outlives a process.

PROTOCOL changes when requests or replies change their meaning; SCHEMA when files do (checkpoints, run
directories). An unknown number is refused with a text that says what to do.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from fedgraft.errors import WireError

PROTOCOL = 1
SCHEMA = 1

PACKAGES = ("fedgraft", "server", "clients", "strategies", "scenarios")
"""The packages whose code both sides must share in a simulation."""


def check_number(kind: str, came: object, known: int, what: str) -> None:
    """Refuse a protocol or schema number that this release does not know.

    Raises:
        WireError: `came` is another number than `known`.
    """
    if type(came) is not int or came != known:  # True == 1 in Python
        raise WireError(
            f"{what} has {kind} {came!r}, this release of FedGraft knows {known}; "
            "install the same release on both sides (fedgraft --version tells)"
        )


def package_directory(package: str) -> Path:
    """Return the folder from which a package would be imported, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise WireError(f"package {package!r} can't be found; reinstall FedGraft (pip install -e .)")
    return Path(next(iter(found.submodule_search_locations)))


@functools.cache
def code_digest() -> str:
    """Return a digest of this process's FedGraft code: sha256 over each module's path and text.

    In Flower's simulation client code can come from another checkout than server code, silently; the
    digests in `describe` bring that to light.
    """
    digest = hashlib.sha256()
    for package in PACKAGES:
        root = package_directory(package)
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
