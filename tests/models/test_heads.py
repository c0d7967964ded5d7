"""Heads against torch's own modules and formulas written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from torch import nn

from fedgraft.models.head_settings import AdapterHead, CosineHead, HeadSettings, LinearHead, MlpHead
from fedgraft.models.heads import as_tensors, forward, head_shapes, initial_head

HEADS: tuple[HeadSettings, ...] = (
    LinearHead(),
    LinearHead(bias=False),
    CosineHead(),
    CosineHead(scale=2.5),
    MlpHead(),
    MlpHead(hidden=(5,)),
    MlpHead(hidden=(7, 4, 6)),
    AdapterHead(rank=3),
    AdapterHead(rank=20),
)
heads = pytest.mark.parametrize("head", HEADS, ids=repr)
dims = st.tuples(st.integers(1, 12), st.integers(1, 6), st.integers(1, 8))


def drawn(head: HeadSettings, feature_dim: int, num_outputs: int, seed: int) -> dict[str, torch.Tensor]:
    """Return parameters away from their start."""
    generator = torch.Generator().manual_seed(seed)
    shapes = head_shapes(head, feature_dim, num_outputs)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@given(dims)
def test_linear_is_torchs_linear(dim: tuple[int, int, int]) -> None:
    num_samples, num_outputs, feature_dim = dim
    features = torch.randn(num_samples, feature_dim)
    for bias in (True, False):
        module = nn.Linear(feature_dim, num_outputs, bias=bias)
        head = LinearHead(bias=bias)
        state = {name: value.detach() for name, value in module.state_dict().items()}
        assert {name: tuple(value.shape) for name, value in state.items()} == head_shapes(
            head, feature_dim, num_outputs
        )
        assert torch.equal(forward(head, state, features), module(features))


@given(dims, st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_mlp_is_torchs_sequential(dim: tuple[int, int, int], hidden: list[int]) -> None:
    num_samples, num_outputs, feature_dim = dim
    widths = [feature_dim, *hidden, num_outputs]
    linears = [nn.Linear(widths[i], widths[i + 1]) for i in range(len(widths) - 1)]
    parts = [part for linear in linears for part in (linear, nn.ReLU())][:-1]
    head = MlpHead(hidden=tuple(hidden))
    state = {
        f"layers.{i}.{name}": value for i, linear in enumerate(linears) for name, value in linear.state_dict().items()
    }
    assert {name: tuple(value.shape) for name, value in state.items()} == head_shapes(head, feature_dim, num_outputs)
    features = torch.randn(num_samples, feature_dim)
    assert torch.equal(forward(head, state, features), nn.Sequential(*parts)(features))


@given(dims)
def test_cosine_is_the_cosine(dim: tuple[int, int, int]) -> None:
    """Written with NumPy: scale times the cosine of the angle between a feature and each direction."""
    num_samples, num_outputs, feature_dim = dim
    head = CosineHead(scale=3.0)
    parameters = drawn(head, feature_dim, num_outputs, 0)
    features = torch.randn(num_samples, feature_dim)
    x, w = features.double().numpy(), parameters["weight"].double().numpy()
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(w, axis=1)[None, :]
    expected = parameters["scale"].item() * (x @ w.T) / lengths
    np.testing.assert_allclose(forward(head, parameters, features).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_cosine_of_zero_is_zero_and_has_a_gradient() -> None:
    head = CosineHead()
    parameters = {name: value.requires_grad_() for name, value in drawn(head, 4, 3, 0).items()}
    outputs = forward(head, parameters, torch.zeros(2, 4))
    assert torch.equal(outputs, torch.zeros(2, 3))
    outputs.sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in parameters.values())


@heads
def test_the_start_is_a_pure_function_of_the_seed(head: HeadSettings) -> None:
    before = torch.random.get_rng_state()
    first, again = initial_head(head, 6, 3, seed=5), initial_head(head, 6, 3, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {name: value.shape for name, value in first.items()} == head_shapes(head, 6, 3)
    assert all(value.dtype == np.float32 and np.array_equal(value, again[name]) for name, value in first.items())
    other = initial_head(head, 6, 3, seed=6)
    same = all(np.array_equal(value, other[name]) for name, value in first.items())
    assert same == isinstance(head, LinearHead)


def test_where_each_head_starts() -> None:
    assert not any(value.any() for value in initial_head(LinearHead(), 6, 3, 1).values())
    cosine = initial_head(CosineHead(scale=7.0), 500, 100, 1)
    assert cosine["scale"].tolist() == [7.0]
    assert cosine["weight"].mean() == pytest.approx(0, abs=0.02)
    assert cosine["weight"].std() == pytest.approx(1, abs=0.02)
    mlp = initial_head(MlpHead(hidden=(300,)), 500, 100, 1)
    for layer, fan_in in ((0, 500), (1, 300)):
        weight = mlp[f"layers.{layer}.weight"]
        assert weight.var() == pytest.approx(2 / fan_in, rel=0.03)
        assert np.abs(weight).max() <= (6 / fan_in) ** 0.5 * (1 + 1e-6)
        assert not mlp[f"layers.{layer}.bias"].any()
    assert not np.array_equal(mlp["layers.0.weight"].ravel()[:100], mlp["layers.1.weight"].ravel()[:100])


@heads
def test_gradients_are_those_of_finite_differences(head: HeadSettings) -> None:
    parameters = {name: value.double() for name, value in drawn(head, 4, 3, 1).items()}
    features = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    names = list(parameters)

    def of_values(*values: torch.Tensor) -> torch.Tensor:
        return forward(head, dict(zip(names, values, strict=True)), features)

    assert torch.autograd.gradcheck(of_values, [parameters[name].requires_grad_() for name in names])


def test_tensors_share_nothing_with_the_arrays() -> None:
    arrays = {"weight": np.ones((2, 3), dtype=np.float32), "bias": np.zeros(2)}
    arrays["weight"].setflags(write=False)
    tensors = as_tensors(arrays)
    tensors["weight"].zero_()
    assert arrays["weight"].all()
    assert all(value.dtype == torch.float32 for value in tensors.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"linera"', "linear"),
        ('{"name": "mlp", "hidden": []}', "at least 1 item"),
        ('{"name": "mlp", "hidden": [0]}', "greater than 0"),
        ('{"name": "cosine", "scale": 0}', "greater than 0"),
        ('{"name": "linear", "scale": 1}', "Extra inputs"),
        ('{"name": "linear", "bias": 1}', "valid boolean"),
    ],
)
def test_ill_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(HeadSettings).validate_json(text)


@heads
def test_settings_survive_json(head: HeadSettings) -> None:
    assert TypeAdapter(HeadSettings).validate_json(head.model_dump_json()) == head
    assert TypeAdapter(HeadSettings).validate_json(json.dumps(head.name)) == type(head)()


@given(dims, st.integers(1, 20))
def test_adapter_is_torchs_sequential(dim: tuple[int, int, int], rank: int) -> None:
    num_samples, num_outputs, feature_dim = dim
    module = nn.Sequential(nn.Linear(feature_dim, rank, bias=False), nn.Linear(rank, num_outputs))
    state = {
        "adapter.weight": module[0].weight.detach(),
        "weight": module[1].weight.detach(),
        "bias": module[1].bias.detach(),
    }
    head = AdapterHead(rank=rank)
    assert {name: tuple(value.shape) for name, value in state.items()} == head_shapes(head, feature_dim, num_outputs)
    features = torch.randn(num_samples, feature_dim)
    assert torch.equal(forward(head, state, features), module(features))


@pytest.mark.parametrize(("feature_dim", "rank", "num_outputs"), [(9, 4, 3), (4, 9, 12)])
def test_an_adapter_starts_orthogonal(feature_dim: int, rank: int, num_outputs: int) -> None:
    start = initial_head(AdapterHead(rank=rank), feature_dim, num_outputs, seed=5)
    for name in ("adapter.weight", "weight"):
        matrix = start[name].astype(np.float64)
        product = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-6)
    assert not start["bias"].any()
