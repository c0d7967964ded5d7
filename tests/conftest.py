"""What every test shares: a cache that is not the user's, and one thread a library."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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


ONE_AT_A_TIME = frozenset({"simulation", "deployment", "benchmarks"})
"""Folders whose tests start Ray, Flower or whole federations, take ports, or measure: they would disturb each other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep those tests together on one worker when tests run side by side (`-n 2`)."""
    tests = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(tests) and item.path.relative_to(tests).parts[0] in ONE_AT_A_TIME:
            item.add_marker(pytest.mark.xdist_group("one at a time"))
