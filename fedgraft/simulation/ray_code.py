"""How an actor on another machine finds FedGraft, before it can import anything of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping


def finder() -> Callable[[str, tuple[str, ...], Mapping[str, str]], None]:
    """Return the function that puts the driver's own FedGraft first on an actor's path.

    Ray puts the driver's working folder there, which may hold other packages of these names. A function made inside
    a function travels to a worker as code, not by its module's name, and so needs nothing of FedGraft there.
    """

    def find(root: str, packages: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Make FedGraft importable here, where it lies in the driver's folder on this machine too.

        Args:
            root: the folder from which the driver imports FedGraft.
            packages: FedGraft's packages.
            environment: variables to set before anything else is imported.
        """
        import importlib
        import importlib.util
        import os
        import sys
        from pathlib import Path

        os.environ.update(environment)

        def is_drivers(package: str) -> bool:
            found = importlib.util.find_spec(package)
            origin = getattr(found, "origin", None)
            return origin is not None and Path(origin).resolve().parent.parent == Path(root)

        if (Path(root) / "fedgraft").is_dir() and not all(is_drivers(package) for package in packages):
            sys.path.insert(0, root)
            importlib.invalidate_caches()

    return find
