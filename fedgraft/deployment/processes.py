"""How the processes of a site or a server are started: their Python, their environment, their ports."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

import fedgraft

SILENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Nothing phones home, asks for updates, or installs anything."""

KEPT = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
)
"""Variables that processes inherit; all others, proxies and secrets of the user among them, stay behind."""


def python(*arguments: str) -> list[str]:
    """Return a command of this very Python, which imports nothing from its working folder."""
    return [sys.executable, "-P", *arguments]


_PROGRAM = """\
import os, sys, threading, traceback
from {module} import {function}
try:
    {function}()
except Exception:
    traceback.print_exc()
    os._exit(1)
if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
    sys.stdout.flush()
    os._exit(1)
"""
"""A SuperNode whose main thread ends, by an error that Flower logs, would live on by its other threads, deaf; so its
process ends with it, and its supervisor starts it again."""


def flower(module: str, function: str, *arguments: str) -> list[str]:
    """Return the command of one of Flower's programs, run by this Python, wherever its scripts are."""
    return python("-c", _PROGRAM.format(module=module, function=function), *arguments)


def environment(home: Path, further: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the whole environment of a process.

    Args:
        home: Flower's folder for it.
        further: variables beside those that every process has.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    # Flower's SuperExec starts its other programs by name: those beside this Python, whatever else is installed.
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    ours = {"FLWR_HOME": str(home), "PYTHONUNBUFFERED": "1", "no_proxy": "127.0.0.1,localhost"}
    return {**kept, **SILENT, **ours, "PYTHONPATH": os.pathsep.join(_roots()), **(further or {})}


def _roots() -> list[str]:
    """Return where FedGraft was imported from, unless it is installed, and the user's own additions."""
    root = str(Path(fedgraft.__file__).resolve().parent.parent)
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return list(dict.fromkeys([*([] if root in installed else [root]), *given]))


def answers(host: str, port: int) -> bool:
    """Tell whether somebody listens at a port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def known_bundle() -> str:
    """Return the sha256 of the bundle that this release's server sends: made here, from the installed code."""
    import hashlib

    from fedgraft.simulation.app_folder import app_folder
    from fedgraft.simulation.flower_control import bundle

    with tempfile.TemporaryDirectory(prefix="fedgraft-bundle-") as folder:
        return hashlib.sha256(bundle(app_folder(Path(folder)))).hexdigest()
