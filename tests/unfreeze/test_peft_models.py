"""LoRA, IA3 and adapters in blocks: nothing changes at the start, and later what the papers' formulas say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from adapted_models import MODELS, backbone_of, blocks_of, drawn, pictures
from torch import nn
from torch.nn import functional

from fedgraft.errors import ModelError
from fedgraft.models.heads import as_tensors
from fedgraft.models.method_settings import IA3, Adapter, BitFit, Lora

EVERY = [(name, method) for name in MODELS for method in (Lora(rank=3), IA3(), Adapter(width=8))]
EVERY.remove(("timm resnet", Adapter(width=8)))
IDS = [f"{name}, {method.name}" for name, method in EVERY]


@pytest.mark.parametrize(("name", "method"), EVERY, ids=IDS)
def test_at_the_start_the_model_is_the_pretrained_one(name: str, method: Lora | IA3 | Adapter) -> None:
    """B = 0, scales of 1, up-projections of 0: bit for bit; and each array that is trained can change the outputs."""
    backbone = backbone_of(name)
    blocks = blocks_of(backbone, method)
    activations = blocks.activations(pictures())
    plain = backbone.blocks(blocks.cut)
    expected = plain.features(as_tensors(plain.pretrained), activations)
    for start in (blocks.pretrained, blocks.start(seed=5)):
        came = blocks.features(as_tensors(start), activations)
        torch.testing.assert_close(came, expected, rtol=0, atol=1e-6)
    values = as_tensors(drawn(blocks.shapes, around=1.0 if method.name == "ia3" else 0.0))
    leaves = {key: value.requires_grad_() for key, value in values.items()}
    blocks.features(leaves, activations).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in leaves.values())


@pytest.mark.parametrize(("name", "method"), EVERY, ids=IDS)
def test_trained_values_settle_in_the_model(name: str, method: Lora | IA3 | Adapter) -> None:
    """What is exported: LoRA and IA3 in the weights, whose names and number stay; adapters as modules."""
    backbone = backbone_of(name)
    names = set(backbone.model.state_dict())
    blocks = blocks_of(backbone, method)
    values = drawn(blocks.shapes, around=1.0 if method.name == "ia3" else 0.0)
    expected = blocks.features(as_tensors(values), blocks.activations(pictures()))
    before = backbone.features(pictures())
    blocks.fill(values)
    came = backbone.features(pictures())
    assert (came - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (came - before).abs().max() > 1e-2 * before.abs().max()
    added = set(backbone.model.state_dict()) - names
    assert not names - set(backbone.model.state_dict())
    assert added == ({key.removeprefix("backbone.") for key in values} if method.name == "adapter" else set())


def test_lora_is_the_weight_plus_a_scaled_product() -> None:
    """`W + alpha / rank B A` in every kind of layer, written out; A and B travel under the layers' own names."""
    method = Lora(rank=2, alpha=3.0)
    for name, layers in {
        "timm vit": {"blocks.4.attn.qkv": "weight", "blocks.5.mlp.fc2": "weight"},
        "timm resnet": {"layer3.0.conv1": "weight"},
        "torchvision vit": {
            "encoder.layers.encoder_layer_1.self_attention": "in_proj_weight",
            "encoder.layers.encoder_layer_1.self_attention.out_proj": "weight",
            "encoder.layers.encoder_layer_2.mlp.3": "weight",
        },
    }.items():
        backbone = backbone_of(name)
        blocks = blocks_of(backbone, method)
        values = {key: np.zeros(shape, np.float32) for key, shape in blocks.shapes.items()}
        ours = {key: value for key, value in drawn(blocks.shapes).items() if key.rpartition(".lora_")[0][9:] in layers}
        assert len(ours) == 2 * len(layers)
        came = blocks.features(as_tensors({**values, **ours}), blocks.activations(pictures()))
        with torch.no_grad():
            for layer, kind in layers.items():
                a, b = (torch.from_numpy(ours[f"backbone.{layer}.lora_{part}.weight"]) for part in "AB")
                weight = backbone.model.get_submodule(layer).get_parameter(kind)
                product = torch.einsum("or,r...->o...", b.reshape(len(b), 2), a)
                weight.add_(3.0 / 2 * product)
        expected = backbone.features(pictures())
        assert (came - expected).abs().max() <= 1e-5 * expected.abs().max(), name


def test_ia3_scales_keys_and_values_and_what_goes_into_the_second_layer() -> None:
    backbone = backbone_of("timm vit")
    blocks = blocks_of(backbone, IA3())
    assert {key.split(".", 3)[3] for key in blocks.pretrained} == {"attn.qkv.ia3_l", "mlp.fc2.ia3_l"}
    values = drawn(blocks.shapes, around=1.0)
    came = blocks.features(as_tensors(values), blocks.activations(pictures()))
    with torch.no_grad():
        for key, value in values.items():
            layer = backbone.model.get_submodule(key.removeprefix("backbone.").removesuffix(".ia3_l"))
            scale = torch.from_numpy(value).flatten()
            if "qkv" in key:
                layer.bias.mul_(scale)
                layer.weight.mul_(scale[:, None])
            else:
                layer.weight.mul_(scale[None, :])
    expected = backbone.features(pictures())
    assert (came - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["timm vit", "torchvision vit"])
def test_an_adapter_is_a_bottleneck_with_a_way_past_it(name: str) -> None:
    """Written as a function of what each sub-layer gives; torchvision's attention gives a tuple."""
    backbone = backbone_of(name)
    blocks = blocks_of(backbone, Adapter(width=4))
    values = {key.removeprefix("backbone."): torch.from_numpy(value) for key, value in drawn(blocks.shapes).items()}
    places = {key.partition(".adapter.")[0] for key in values}
    assert len(places) == 2 * 2  # attention and MLP of two blocks
    came = blocks.features({f"backbone.{key}": value for key, value in values.items()}, blocks.activations(pictures()))

    def hook(place: str) -> None:
        down, d, up, u = (
            values[f"{place}.adapter.{part}"] for part in ("down.weight", "down.bias", "up.weight", "up.bias")
        )

        def adapted(x: torch.Tensor) -> torch.Tensor:
            return x + functional.linear(functional.linear(x, down, d).clamp_min(0), up, u)

        def after(_: nn.Module, __: object, output: object) -> object:
            return (adapted(output[0]), output[1]) if isinstance(output, tuple) else adapted(output)  # type: ignore[arg-type]

        backbone.model.get_submodule(place).register_forward_hook(after)

    for place in places:
        hook(place)
    expected = backbone.features(pictures())
    assert (came - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_bitfit_trains_biases() -> None:
    backbone = backbone_of("timm vit")
    blocks = blocks_of(backbone, BitFit())
    own = {f"backbone.{name}" for name, _ in backbone.model.named_parameters() if name.endswith("bias")}
    past = ("backbone.blocks.4.", "backbone.blocks.5.", "backbone.norm.")
    assert set(blocks.pretrained) == {name for name in own if name.startswith(past)}


def test_frozen_weights_of_attention_do_not_wander() -> None:
    """Whoever adds to them for a pass and subtracts again leaves rounding errors: here the bits stay the same."""
    backbone = backbone_of("torchvision vit")
    blocks = blocks_of(backbone, Lora(rank=2, targets=("all-attention",)))
    activations = blocks.activations(pictures())
    values = as_tensors(drawn(blocks.shapes))
    first = blocks.features(values, activations)
    other = {name: 3.7 * value for name, value in values.items()}
    for _ in range(50):
        blocks.features(other, activations)
    assert torch.equal(blocks.features(values, activations), first)
    with ThreadPoolExecutor(4) as pool:
        assert all(
            torch.equal(came, first) for came in pool.map(lambda _: blocks.features(values, activations), range(8))
        )


def test_where_it_starts_is_a_function_of_the_seed() -> None:
    blocks = blocks_of(backbone_of("timm vit"), Lora(rank=3))
    one, again, other = (blocks.start(seed) for seed in (1, 1, 2))
    name = "backbone.blocks.4.attn.qkv.lora_A.weight"
    assert np.array_equal(one[name], again[name])
    assert not np.array_equal(one[name], other[name])
    assert 0.9 / 8 < np.abs(one[name]).max() <= 1 / 8  # uniform within 1 / sqrt(64 inputs)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        (
            "timm vit",
            Lora(targets=("query",)),
            ["targets came 'query'", "there are none", "past 'blocks.3'", "attn.qkv"],
        ),
        ("timm vit", Lora(targets=("qkv", "norm1")), ["came 'norm1'", "lora can't adapt any (LayerNorm)"]),
        ("torchvision vit", Lora(targets=("out_proj",)), ["came 'out_proj'", "self_attention, mlp.0, mlp.3"]),
        ("torchvision vit", IA3(targets=("self_attention",)), ["(MultiheadAttention)", "ia3 can adapt: mlp.0, mlp.3"]),
        ("timm resnet", Adapter(), ["there is nothing past 'layer2'", "adapter can adapt"]),
        ("timm vit", IA3(feedforward=("fc9",)), ["unfreeze.method.feedforward came 'fc9'"]),
    ],
)
def test_modules_that_are_not_there(name: str, method: Lora | IA3 | Adapter, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        blocks_of(backbone_of(name), method)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (("qkv",), {"blocks.4.attn.qkv", "blocks.5.attn.qkv"}),
        (("blocks.5.*.qkv", "mlp.fc1"), {"blocks.5.attn.qkv", "blocks.4.mlp.fc1", "blocks.5.mlp.fc1"}),
        (("blocks.4.attn.*",), {"blocks.4.attn.qkv", "blocks.4.attn.proj"}),
        (
            None,
            {f"blocks.{block}.{part}" for block in (4, 5) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")},
        ),
    ],
)
def test_modules_by_the_ends_of_their_names(targets: tuple[str, ...] | None, found: set[str]) -> None:
    blocks = blocks_of(backbone_of("timm vit"), Lora(rank=2, targets=targets))
    assert {name.removeprefix("backbone.").rpartition(".lora_")[0] for name in blocks.pretrained} == found
    assert blocks_of(backbone_of("timm vit"), Lora(targets=("all-linear",))).shapes.keys() >= blocks.shapes.keys()
