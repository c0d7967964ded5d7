"""Weights as named arrays: digest, check, and filling a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import ModelError, listed

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN = 5


def weights_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the sha256 (hex) over sorted names, dtypes, shapes and bytes (little-endian, C order)."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def state_arrays(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Return a copy of every parameter and buffer that a state dict holds, under full names."""
    return {name: np.array(value.detach().cpu().numpy(), order="C") for name, value in model.state_dict().items()}


def fill(model: nn.Module, tensors: Mapping[str, Tensor], *, origin: str, classifier: Sequence[str] = ()) -> None:
    """Copy tensors into a model, all or none.

    Args:
        model: Filled in place.
        tensors: Under the model's full names; floating types are converted.
        origin: Where they come from, for the error.
        classifier: Names of modules whose tensors may be missing or of another shape; those become zeros.

    Raises:
        ModelError: tensors are missing, unexpected, of another shape, or not finite.
    """
    import torch

    state = model.state_dict()
    optional = {name for name in state if any(name.startswith(f"{module}.") for module in classifier)}
    given = {name: value for name, value in tensors.items() if name not in optional or value.shape == state[name].shape}
    counters = {name for name in state if name.endswith("num_batches_tracked")}  # older files lack them
    missing = [name for name in state if name not in given and name not in optional | counters]
    unexpected = [name for name in given if name not in state]
    unexpected.sort(key=lambda name: name.endswith("num_batches_tracked"))  # telling names first
    ill_shaped = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(state[name].shape)}"
        for name in state
        if name in given and given[name].shape != state[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "ill-shaped": ill_shaped}
    if any(faults.values()):
        _refuse(origin, len(state), faults)
    broken = [name for name, value in given.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        _refuse(origin, len(state), {"not finite": broken})
    with torch.no_grad():
        for name, target in state.items():
            if name in given:
                target.copy_(given[name])
            else:
                target.zero_()


def tensors_of(arrays: Mapping[str, NDArray[Any]], model: nn.Module, origin: str) -> dict[str, Tensor]:
    """Return arrays from the wire as tensors; unlike a file's, their types must be the model's own.

    Raises:
        ModelError: an array has another dtype than the model's tensor.
    """
    import torch

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    state = model.state_dict()
    wrong = [
        f"{name} {value.dtype} instead of {state[name].dtype}"
        for name, value in tensors.items()
        if name in state and value.dtype != state[name].dtype
    ]
    if wrong:
        _refuse(origin, len(state), {"ill-typed": wrong})
    return tensors


def _refuse(origin: str, expected: int, faults: Mapping[str, Sequence[str]]) -> None:
    parts = [f"{len(names)} {what} ({listed(names, _SHOWN)})" for what, names in faults.items() if names]
    raise ModelError(
        f"{origin} doesn't fit a model of {expected} tensors: {'; '.join(parts)}; "
        "give the weights of this very backbone, or the backbone's name that fits the weights"
    )
