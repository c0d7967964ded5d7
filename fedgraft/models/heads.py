"""Heads: everything trainable after the cut, as named arrays and as torch modules.

A head travels and is stored as named float32 arrays. `forward` is a function of such names, so that the plain
loop, a cohort and `torch.func` can share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.models.head_settings import AdapterHead, CosineHead, HeadSettings, LinearHead
from fedgraft.randomness import rng

if TYPE_CHECKING:
    import torch

ADAPTER = "adapter."
"""What the names of an adapter's arrays begin with; the others are the layer on it."""

EPSILON = 1e-8
"""Smallest norm that a cosine head divides by."""


def head_shapes(head: HeadSettings, feature_dim: int, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of the head's arrays, by name."""
    if isinstance(head, LinearHead):
        shapes: dict[str, tuple[int, ...]] = {"weight": (num_outputs, feature_dim)}
        return shapes | {"bias": (num_outputs,)} if head.bias else shapes
    if isinstance(head, CosineHead):
        return {"weight": (num_outputs, feature_dim), "scale": (1,)}
    if isinstance(head, AdapterHead):
        layers: dict[str, tuple[int, ...]] = {"weight": (num_outputs, head.rank), "bias": (num_outputs,)}
        return {f"{ADAPTER}weight": (head.rank, feature_dim), **layers}
    widths = (feature_dim, *head.hidden, num_outputs)
    return {
        f"layers.{layer}.{part}": (widths[layer + 1], widths[layer]) if part == "weight" else (widths[layer + 1],)
        for layer in range(len(widths) - 1)
        for part in ("weight", "bias")
    }


def initial_head(head: HeadSettings, feature_dim: int, num_outputs: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return the head before the first round, a pure function of its arguments.

    Linear: zeros, which is where a convex problem may start and every class is alike. Cosine: standard normal
    directions. Adapter: orthogonal matrices (Saxe et al., 2014, arXiv:1312.6120) and zero biases. MLP: He et al. (2015,
    arXiv:1502.01852), uniform with variance `2 / fan_in`, and zero biases.
    """
    shapes = head_shapes(head, feature_dim, num_outputs)
    if isinstance(head, LinearHead):
        return {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    generator = rng(seed, "initial head")
    if isinstance(head, CosineHead):
        weight = generator.standard_normal(shapes["weight"]).astype(np.float32)
        return {"weight": weight, "scale": np.full(1, head.scale, dtype=np.float32)}
    if isinstance(head, AdapterHead):
        return {
            name: _orthogonal(generator.standard_normal(shape)) if len(shape) == 2 else np.zeros(shape, np.float32)
            for name, shape in shapes.items()
        }
    return {
        name: np.zeros(shape, dtype=np.float32)
        if len(shape) == 1
        else generator.uniform(-1, 1, shape).astype(np.float32) * np.float32((6 / shape[1]) ** 0.5)
        for name, shape in shapes.items()
    }


def _orthogonal(normal: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a matrix of the same shape with orthonormal rows, or columns where it has more rows, drawn uniformly."""
    turned = len(normal) > normal.shape[1]
    basis, triangle = np.linalg.qr(normal if turned else normal.T)
    basis = basis * np.sign(np.diag(triangle))  # without it the draw would not be uniform
    return (basis if turned else basis.T).astype(np.float32)


def forward(head: HeadSettings, parameters: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Return outputs `(num_samples, num_outputs)` of features `(num_samples, feature_dim)`."""
    from torch.nn import functional

    if isinstance(head, LinearHead):
        return functional.linear(features, parameters["weight"], parameters.get("bias"))
    if isinstance(head, CosineHead):
        directions = functional.normalize(parameters["weight"], dim=1, eps=EPSILON)
        return parameters["scale"] * functional.linear(functional.normalize(features, dim=1, eps=EPSILON), directions)
    if isinstance(head, AdapterHead):
        adapted = functional.linear(features, parameters[f"{ADAPTER}weight"])
        return functional.linear(adapted, parameters["weight"], parameters["bias"])
    last = len(head.hidden)
    for layer in range(last + 1):
        features = functional.linear(features, parameters[f"layers.{layer}.weight"], parameters[f"layers.{layer}.bias"])
        if layer < last:
            features = functional.relu(features)
    return features


def as_tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return float32 tensors of named arrays; copies, so that training can't touch what was received."""
    import torch

    return {name: torch.tensor(np.asarray(value, dtype=np.float32)) for name, value in arrays.items()}
