"""What the tests of trained blocks share."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_fine_tuning import write_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights."""
    return write_weights(tmp_path_factory.mktemp("weights") / "weights.safetensors")
