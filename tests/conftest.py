"""What every test shares: a cache that is not the user's, and one thread a library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # read when torch and NumPy load; importing them here would slow every test down

# The first example of a test pays for imports, so deadlines mean nothing; and a run of the tests is to be repeatable.
settings.register_profile("fedgraft", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("fedgraft")


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Point our cache into the session's folder; a test that needs an empty one sets its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


ONE_AT_A_TIME = ("tests/simulation/", "tests/deployment/", "tests/benchmarks/")
"""Folders whose tests start Ray, Flower or whole federations, take ports, or measure: they would disturb each other."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep those tests together on one worker when tests run side by side (`-n 2`), and begin with them.

    xdist 3.8 has marks for that (`--dist loadgroup`), which have no effect with pytest 9.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "one at a time" if nodeid.startswith(ONE_AT_A_TIME) else nodeid

    return Scheduling(config, log)
