"""A Ray for the tests that don't care whose it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedgraft.simulation.ray_session import RaySession
from fedgraft.simulation.settings import RayRuntime


@pytest.fixture(scope="module")
def shared_ray() -> Iterator[None]:
    """One Ray for a file's tests; runs use it and leave it running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        with RaySession(RayRuntime(), verbose=False) as session:
            session.start(4)
            session.wait()
            yield
