"""Named arrays in safetensors files, with facts beside them; equal content gives equal bytes.

safetensors writes its metadata in an order that changes from process to process, so all facts stand in one
entry, as JSON with sorted keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import StoreError
from fedgraft.files import replacing

_ENTRY = "fedgraft"


def save_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write arrays and facts (JSON values), whole or not at all.

    Raises:
        StoreError: the folder can't be written or the disk is full.
    """
    from safetensors.numpy import save

    contiguous = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(contiguous, {_ENTRY: json.dumps(dict(facts), sort_keys=True)}))


def tensors_digest(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> str:
    """Return sha256 over arrays and facts: safetensors files have no checksum of their own."""
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name, value in sorted(arrays.items()):
        digest.update(json.dumps([name, value.dtype.str, value.shape]).encode())
        digest.update(np.asarray(value, order="C").tobytes())
    return digest.hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return arrays and facts.

    Raises:
        StoreError: there is no such file, it is damaged, or it is none of ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            facts = json.loads((file.metadata() or {})[_ENTRY])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path} is damaged, or was not written by FedGraft: {error}") from error
