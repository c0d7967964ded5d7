"""Backbone weights that came over the wire: kept by their digest, believed only after checking it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import ModelError, StoreError
from fedgraft.files import cache_directory, replacing


def _folder() -> Path:
    return cache_directory() / "weights"


def digests() -> list[str]:
    """Return the digests of the weights that this machine keeps."""
    return sorted(path.stem for path in _folder().glob("*.safetensors"))


def keep(arrays: Mapping[str, NDArray[Any]], weights_digest: str) -> None:
    """Keep weights for later runs.

    Raises:
        ModelError: their digest is another than stated.
        StoreError: the disk is full, or the cache can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from fedgraft.models.weights import weights_digest as digest_of

    came = digest_of(arrays)
    if came != weights_digest:
        raise ModelError(f"backbone weights with digest {came[:12]} came, {weights_digest[:12]} was announced; refused")
    path = _folder() / f"{weights_digest}.safetensors"
    contiguous = {name: np.asarray(value, order="C") for name, value in arrays.items()}
    try:
        with replacing(path) as temporary:
            save_file(contiguous, str(temporary))
    except SafetensorError as error:  # a full disk is no OSError to it
        raise StoreError(f"can't keep backbone weights in {path}: {error}; free space") from error


def load(weights_digest: str) -> dict[str, NDArray[Any]]:
    """Return kept weights, after checking their digest again.

    Raises:
        ModelError: the file is damaged; it is removed, so that the weights are asked for anew.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from fedgraft.models.weights import weights_digest as digest_of

    path = _folder() / f"{weights_digest}.safetensors"
    try:
        arrays: dict[str, NDArray[Any]] = load_file(str(path))
        if digest_of(arrays) == weights_digest:
            return arrays
    except (SafetensorError, OSError):
        pass
    path.unlink(missing_ok=True)
    raise ModelError(f"the kept backbone weights {path} were damaged and have been removed; run again to get them anew")
