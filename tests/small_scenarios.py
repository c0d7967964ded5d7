"""Scenarios that run in a second: ready features, so that there is no backbone to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scenarios.schema import Scenario

SMALL: dict[str, Any] = {
    "name": "small",
    "backbone": "identity",
    "data": {
        "source": {"name": "synthetic", "num_samples": 320, "num_features": 6, "num_classes": 4, "separation": 2.0},
        "partition": {"name": "dirichlet", "clients": 9, "alpha": 0.5},
    },
    "train": {"local_epochs": 2, "batch_size": 8, "optimizer": {"name": "sgd", "learning_rate": 0.1}},
    "server": {"rounds": 4, "checkpoint_every": 2},
}


def changed(block: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a block with dotted keys set: `{"server.rounds": 2}`."""
    block = json.loads(json.dumps(block))
    for key, value in changes.items():
        *path, last = key.split(".")
        place = block
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return block


def small(**changes: Any) -> Scenario:
    """Return the small scenario; changes as `**{"server.rounds": 2}`."""
    return Scenario.model_validate_json(json.dumps(changed(SMALL, changes)))


def small_file(folder: Path, **changes: Any) -> Path:
    """Write the small scenario into a folder."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(changed(SMALL, changes)))
    return path


def relative_difference(one: Any, other: Any) -> float:
    """Return `max|one - other| / max|other|`."""
    return float(np.abs(np.asarray(one) - np.asarray(other)).max() / np.abs(np.asarray(other)).max())
