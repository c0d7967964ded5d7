"""Weights from a local file: .safetensors, also as FedGraft exports models, or a .pth of nothing but tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fedgraft.errors import ModelError, listed

# What training scripts wrap a state dict in, and what wrappers of models put before its names.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "net", "ema_state_dict")
_BACKBONE, _BESIDE = "backbone.", ("head.", "standardisation.")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file, out of the common wrappers.

    Raises:
        ModelError: no such file, no such format, damaged, or more than tensors inside.
    """
    if not path.is_file():
        raise ModelError(f"no weights file {path}; `weights` is pretrained, random, or the path of a file")
    try:
        content = _read(path)
    except ModelError:
        raise
    except Exception as error:  # what a damaged file raises differs by format, version and damage
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ModelError(f"can't read the weights file {path}: {reason}; it may be damaged: get it again") from error
    return _without_prefix(_of_export(_unwrapped(content, path)))


def _read(path: Path) -> Any:
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"the weights file {path} is damaged, or holds more than plain tensors: it could run code and is refused; "
            "save the model's state_dict() with torch.save, or better as .safetensors"
        ) from error


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    found = content
    for _ in range(2):  # {"model": {"state_dict": ...}} has been seen
        key = next(
            (key for key in _WRAPPERS if isinstance(found, Mapping) and isinstance(found.get(key), Mapping)), None
        )
        found = found[key] if key is not None else found
    tensors = {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}
    others = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if not tensors or others:
        inside = f"entries that are no tensors: {listed(others, 5)}" if others else type(content).__name__
        raise ModelError(
            f"the weights file {path} holds {inside}; expected a state dict (names to tensors), "
            f"bare or under one of: {', '.join(_WRAPPERS)}"
        )
    return tensors


def _of_export(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's tensors of a model that FedGraft exported, which has a head beside them."""
    own = {name.removeprefix(_BACKBONE): value for name, value in tensors.items() if name.startswith(_BACKBONE)}
    others = [name for name in tensors if not name.startswith((_BACKBONE, *_BESIDE))]
    return tensors if others or len(own) == len(tensors) else own


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
