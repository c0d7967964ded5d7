"""Real programs that some tests drive: where they lie, and what a test does where they are missing.

A test that needs one skips with a reason. Where `FEDGRAFT_REQUIRE_TOOLS=1` stands in the environment, as in `.ci/run`,
it fails instead: there a skip would mean that nobody looks any more.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

DEBIAN_PACKAGES = {"nginx": "nginx-light", "ssh-keygen": "openssh-client", "ip": "iproute2"}
"""The package of Debian and Ubuntu that brings a program, where it has another name."""


def required_tool(name: str) -> str:
    """Return the path of a program that a test drives; skip the test where there is none, or fail it (see above)."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    path = shutil.which(name, path=folders)
    if path is None:
        missing(f"the program {name}", f"apt-get install {DEBIAN_PACKAGES.get(name, name)}")
    return path


def missing(what: str, how: str) -> NoReturn:
    """Skip the test that needs what is not there, or fail it where it must not be skipped."""
    reason = f"needs {what}, which is not here; {how}"
    if os.environ.get("FEDGRAFT_REQUIRE_TOOLS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
