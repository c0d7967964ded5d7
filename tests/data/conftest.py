"""Every test has a cache of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedgraft.data.federation import Federation, build_federation
from fedgraft.data.settings import DataSettings


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "fedgraft"


@pytest.fixture
def build() -> Callable[..., Federation]:
    """Return a function that builds a federation from settings as a scenario file gives them."""

    def from_values(source: Any, partition: Any, seed: int = 1, **values: Any) -> Federation:
        text = json.dumps({"source": source, "partition": partition, **values})
        return build_federation(DataSettings.model_validate_json(text), seed)

    return from_values
