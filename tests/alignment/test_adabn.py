"""Batch norm with the statistics of each client: what PyTorch's own batch norm gathers of the client's images."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

import fedgraft
from fedgraft.alignment.adabn import Layer, adapted_features, digests_of_rows
from fedgraft.alignment.aligned import Domain
from fedgraft.alignment.settings import AdaBn
from fedgraft.errors import ModelError
from fedgraft.features.preprocessing import normalised, resized
from fedgraft.features.settings import FeatureSettings
from fedgraft.features.store import FeatureStore
from fedgraft.models.backbone import Backbone
from fedgraft.models.registry import load
from fedgraft.progress import listening
from fedgraft.workspace import Workspace
from scenarios.schema import Scenario

RESNET = {"name": "torchvision:resnet18", "weights": "random", "cut": "layer2", "input_size": 32}
DOMAINS = [{"name": "plain"}, {"name": "inverted", "invert": True}]


def scenario(**changes: Any) -> Scenario:
    values = {
        "name": "adapted",
        "backbone": RESNET,
        "align": {"name": "adabn", "batch_size": 1000},
        "strategy": "ncm",
        "data": {
            "source": {"name": "synthetic", "kind": "images", "num_samples": 80, "num_classes": 3, "image_size": 16},
            "partition": {"name": "iid", "clients": 4},
            "domains": DOMAINS,
        },
    }
    return Scenario.model_validate_json(json.dumps({**values, **changes}))


def opened(given: Scenario) -> Workspace:
    return Workspace(given.data, given.seed, given.backbone, given.features)


def by_pytorch(given: Scenario, known: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], share: float = 1.0) -> Any:
    """Features by PyTorch's batch norm in training mode, `momentum=None`, over all known images at once.

    With a share the pretrained statistics are mixed in, layer by layer from the input on: each layer's own are those of
    what the layers before it give once they are mixed.
    """
    workspace = opened(given)
    network = load(given.backbone)
    assert isinstance(network, Backbone)
    steps = network.info.preprocessing
    pictures, wanted = (
        normalised(resized(workspace.federation.samples.images(part), steps), steps) for part in (known, rows)
    )
    model = copy.deepcopy(network.model)
    stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool, model.layer1, model.layer2)
    norms = [part for part in stem.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in stem.modules():
        part.__dict__.pop("train", None)  # the backbone's own are frozen for good
    stem.eval()
    for number, norm in enumerate(norms):
        pretrained = norm.running_mean.clone(), norm.running_var.clone()
        norm.reset_running_stats()
        norm.momentum = None
        if share == 1.0:
            norm.train()
            continue
        seen: list[torch.Tensor] = []
        hook = norm.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            stem(pictures)
        hook.remove()
        x = seen[0]
        norm.running_mean = share * x.mean((0, 2, 3)) + (1 - share) * pretrained[0]
        norm.running_var = share * x.var((0, 2, 3), correction=0) + (1 - share) * pretrained[1]
        norm.at_last = share * x.var((0, 2, 3)) + (1 - share) * pretrained[1], number
    with torch.no_grad():
        if share == 1.0:
            stem(pictures)
        else:
            for norm in norms:
                norm.running_var = norm.at_last[0]
        stem.eval()
        return stem(wanted).mean((2, 3)).numpy()


@pytest.mark.parametrize(("prior", "share"), [(0.0, 1.0), (8.0, None)])
def test_statistics_of_each_client_are_those_of_pytorch(prior: float, share: float | None, tmp_path: Path) -> None:
    """Clients by their training parts, for both parts; the test part by its groups."""
    given = scenario(align={"name": "adabn", "batch_size": 1000, "prior_samples": prior})
    workspace = opened(given)
    federation = workspace.federation
    assert isinstance(given.align, AdaBn)
    found = workspace.adapted(given.align)
    groups = federation.samples.group
    assert groups is not None
    tests = [federation.test[groups[federation.test] == name] for name in ("plain", "inverted")]
    clients = [(federation.train.of(number), federation.validation.of(number)) for number in range(4)]
    for known, rows in [*clients, *zip(tests, tests, strict=True)]:
        wanted = by_pytorch(given, known, rows, share or len(known) / (len(known) + prior))
        np.testing.assert_allclose(found[rows], wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    plain = workspace.features
    assert np.abs(found - plain).max() > 0.1 * np.abs(plain).max()


def test_batches_are_cumulated_as_by_momentum_none() -> None:
    """A layer alone: the mean over three batches of their means and unbiased variances."""
    layer, theirs = nn.BatchNorm2d(5, affine=False).eval(), nn.BatchNorm2d(5, momentum=None)
    ours = Layer(layer)
    for size in (4, 3, 3):
        x = torch.randn(size, 5, 2, 3, generator=torch.Generator().manual_seed(size)) * 3 + 1
        theirs(x)
        ours.see(x, 1.0)
        np.testing.assert_allclose(layer(x), nn.functional.batch_norm(x, None, None, training=True), atol=1e-5)
    for total, wanted in zip(ours.sums, (theirs.running_mean, theirs.running_var), strict=True):
        np.testing.assert_allclose(total / ours.count, wanted, rtol=1e-5)


def test_frozen_work_is_done_once_a_client(tmp_path: Path) -> None:
    """Another client's pictures change nothing of this one's; its own training pictures do."""
    given = scenario()
    assert isinstance(given.align, AdaBn)
    store, federation = FeatureStore(tmp_path / "store"), opened(given).federation
    counts: list[int] = []

    def features(federation: Any) -> Any:
        return adapted_features(
            federation,
            given.backbone,
            AdaBn(batch_size=1000),
            FeatureSettings(),
            store=store,
            progress=lambda done, total: counts.append(total),
        )

    first = np.array(features(federation))
    assert counts
    assert set(counts) == {80}
    counts.clear()
    np.testing.assert_array_equal(features(federation), first)
    assert not counts
    lost = federation.train.of(0)[0]
    fewer = replace(federation, train=federation.train.keep(federation.train.indices != lost))
    second = features(fewer)
    own = np.union1d(fewer.train.of(0), fewer.validation.of(0))
    others = np.setdiff1d(np.arange(80), np.append(own, lost))
    assert set(counts) == {len(own)}
    np.testing.assert_array_equal(second[others], first[others])
    assert (np.abs(second[own] - first[own]).max(axis=1) > 0).all()
    assert not second[lost].any()


def test_a_domain_of_one_image_keeps_the_pretrained_statistics() -> None:
    data = scenario().model_dump(mode="json")["data"]
    given = scenario(data={**data, "partition": {"name": "sizes", "sizes": [1, 30]}})
    assert isinstance(given.align, AdaBn)
    workspace = opened(given)
    alone = workspace.federation.train.of(0)
    assert len(alone) == 1
    np.testing.assert_allclose(workspace.adapted(given.align)[alone], workspace.features[alone], rtol=1e-5, atol=1e-6)


def test_the_order_of_pictures_does_not_matter() -> None:
    digests = np.random.default_rng(2).integers(0, 256, (6, 16), dtype=np.uint8)
    one = digests_of_rows(digests, [Domain(np.array([0, 1, 2]), np.array([0, 1, 2, 3]))])
    other = digests_of_rows(digests, [Domain(np.array([2, 0, 1]), np.array([3, 2, 1, 0]))])
    np.testing.assert_array_equal(one, other)
    fewer = digests_of_rows(digests, [Domain(np.array([0, 1]), np.array([0, 1, 2, 3]))])
    assert (one[:4] != fewer[:4]).any(axis=1).all()
    assert (one[4:] == digests[4:]).all()


def test_a_run_takes_them_and_sends_nothing(tmp_path: Path) -> None:
    """Class means of a run's clients are those of the features that it says; no request for moments is made."""
    given = scenario()
    notes: list[Any] = []
    with listening(notes.append):
        run = fedgraft.run(given, out=tmp_path / "run")
    assert not (tmp_path / "run" / "alignment.safetensors").exists()
    assert "moments" not in run.summary["seconds"]
    assert isinstance(given.align, AdaBn)
    workspace = opened(given)
    federation, features = workspace.federation, workspace.adapted(given.align).astype(np.float64)
    train = federation.train.indices
    targets = federation.samples.targets
    means = np.stack([features[train][targets[train] == label].mean(axis=0) for label in range(3)])
    distances = ((features[federation.test][:, None] - means) ** 2).sum(axis=2)
    right = (distances.argmin(axis=1) == targets[federation.test]).mean()
    assert run.summary["central"]["accuracy"] == pytest.approx(right, abs=1e-9)


def test_what_has_no_batch_norm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="came adabn beside backbone pixels, which has no batch norm to adapt"):
        scenario(backbone="pixels")
    given = scenario(backbone={"name": "timm:convnext_atto", "weights": "random", "input_size": 32})
    with pytest.raises(ModelError, match=r"has no batch norm before 'penultimate'.*take align: coral"):
        fedgraft.run(given, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"strategy": "centralised"}, "which has no clients whose features could differ"),
        (
            {"strategy": "fedavg", "unfreeze": {"cut": "layer1"}},
            "but trained blocks give other features in every round",
        ),
    ],
    ids=["pooled", "unfreeze"],
)
def test_what_does_not_go_with_it_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=f"came adabn beside .*{text}"):
        scenario(**changes)
