"""Whole runs with aligned features: those of a run without alignment, on features that were aligned beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import yaml
from sklearn.preprocessing import StandardScaler
from small_scenarios import changed

import fedgraft
from fedgraft.errors import FedGraftError, ScenarioError
from fedgraft.export import export_run
from fedgraft.progress import listening
from fedgraft.trained import load_safetensors
from fedgraft.workspace import Workspace
from scenarios.schema import Scenario

Features = np.ndarray[Any, Any]
NAMES = np.array(["a", "b", "c"])
FEATURE_DIM = 4
SIZES = (40, 25, 60)


@pytest.fixture
def domains() -> dict[str, Any]:
    """Three clients whose features are those of one distribution, each through a linear map of its own."""
    generator = np.random.default_rng(8)
    owners = np.repeat(np.arange(3), SIZES)
    labels = generator.integers(0, 3, len(owners))
    centres = generator.standard_normal((3, FEATURE_DIM)) * 3
    features = centres[labels] + generator.standard_normal((len(owners), FEATURE_DIM))
    for number in range(3):
        mixing = np.eye(FEATURE_DIM) + 0.4 * generator.standard_normal((FEATURE_DIM, FEATURE_DIM))
        features[owners == number] = features[owners == number] @ mixing + generator.standard_normal(FEATURE_DIM)
    is_test = np.zeros(len(owners), dtype=bool)
    is_test[::5] = True
    return {
        "features": features.astype(np.float32),
        "labels": labels,
        "label_names": NAMES,
        "client": np.array([f"site-{owner}" for owner in owners]),
        "group": np.array([f"site-{owner}" for owner in owners]),
        "is_test": is_test,
    }


@pytest.fixture
def scenario(tmp_path: Path) -> Callable[..., Scenario]:
    """Return a function that writes arrays and returns a scenario of them."""

    def make(arrays: dict[str, Any], name: str = "data", **changes: Any) -> Scenario:
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        values = {
            "name": "aligned",
            "backbone": "identity",
            "data": {"source": {"name": "arrays", "path": str(path)}, "partition": "natural"},
            "train": {"local_epochs": 2, "batch_size": 8, "optimizer": {"name": "sgd", "learning_rate": 0.05}},
            "server": {"rounds": 3, "checkpoint_every": 1},
        }
        return Scenario.model_validate_json(json.dumps(changed(values, changes)))

    return make


def parts(scenario: Scenario) -> tuple[list[Features], list[Features], Features]:
    """Return each client's training rows and all its rows, and the test part's, as the scenario divides them."""
    federation = Workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features).federation
    train = [federation.train.of(number) for number in range(federation.num_clients)]
    whole = [np.concatenate([rows, federation.validation.of(number)]) for number, rows in enumerate(train)]
    return train, whole, federation.test


def standardised(arrays: dict[str, Any], scenario: Scenario) -> Features:
    scaler = StandardScaler().fit(arrays["features"][np.concatenate(parts(scenario)[0])].astype(np.float64))
    return np.asarray(scaler.transform(arrays["features"].astype(np.float64)), dtype=np.float32)


def coloured(arrays: dict[str, Any], scenario: Scenario, reference: list[int], prior: float = 0.0) -> Features:
    """CORAL by SciPy's matrix root on pooled arrays; samples of the reference count as so many exact copies."""
    train, whole, test = parts(scenario)
    features = arrays["features"].astype(np.float64)
    pooled = features[np.concatenate([train[number] for number in reference])]
    goal, goal_mean = np.cov(pooled.T, bias=True), pooled.mean(axis=0)
    penalty = np.trace(goal) / FEATURE_DIM * np.eye(FEATURE_DIM)
    groups = [test[arrays["group"][test] == f"site-{number}"] for number in range(3)]
    result = features.copy()
    for known, rows in [*zip(train, whole, strict=True), *zip(groups, groups, strict=True)]:
        weights = np.concatenate([np.ones(len(known)), np.full(len(pooled), prior / len(pooled))])
        samples = np.concatenate([features[known], pooled])
        mean = np.average(samples, axis=0, weights=weights)
        own = np.cov(samples.T, aweights=weights, bias=True)
        whitening = scipy.linalg.inv(scipy.linalg.sqrtm(own + penalty))
        result[rows] = (features[rows] - mean) @ whitening @ scipy.linalg.sqrtm(goal + penalty) + goal_mean
    return result.astype(np.float32)


def same(run: fedgraft.Run, other: fedgraft.Run, tolerance: float = 2e-5) -> None:
    for name, value in other.head.items():
        np.testing.assert_allclose(run.head[name], value, rtol=0, atol=tolerance * np.abs(value).max(), err_msg=name)
    for group in ("central", "validation"):
        assert run.summary[group]["accuracy"] == pytest.approx(other.summary[group]["accuracy"], abs=1e-12)
        assert run.summary[group]["loss"] == pytest.approx(other.summary[group]["loss"], rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"init": "ncm", "calibrate": "ccvr"},
        {"strategy": "personal-ridge"},
        pytest.param({"train.form": "loop", "shards": 2}, marks=pytest.mark.slow),
        pytest.param({"strategy": "ridge"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "ditto"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "centralised"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "fedcof"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "fedpft"}, marks=pytest.mark.slow),
        pytest.param({"head": {"name": "mlp", "hidden": [6]}}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_standardising_is_the_pooled_scaler_beforehand(
    changes: dict[str, Any], domains: dict[str, Any], scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    """Wherever features are read: training, closed forms, cross-validation, own heads, mixtures, the test part."""
    aligned = scenario(domains, align="standardise", **changes)
    before = {**domains, "features": standardised(domains, aligned)}
    same(
        fedgraft.run(aligned, out=tmp_path / "run"),
        fedgraft.run(scenario(before, "before", **changes), out=tmp_path / "before-run"),
    )


@pytest.mark.parametrize(
    ("align", "reference", "prior"),
    [
        pytest.param({"name": "coral"}, [0, 1, 2], 0.0, marks=pytest.mark.slow),
        pytest.param({"name": "coral", "reference": ["site-1"]}, [1], 0.0, marks=pytest.mark.slow),
        ({"name": "coral", "reference": ["site-2", "site-1"], "prior_samples": 12.0}, [1, 2], 12.0),
    ],
    ids=["pooled", "one site", "two sites and a prior"],
)
@pytest.mark.parametrize("strategy", ["ridge", pytest.param("fedavg", marks=pytest.mark.slow)])
def test_coral_is_that_of_pooled_arrays(
    strategy: str,
    align: dict[str, Any],
    reference: list[int],
    prior: float,
    domains: dict[str, Any],
    scenario: Callable[..., Scenario],
    tmp_path: Path,
) -> None:
    aligned = scenario(domains, align=align, strategy=strategy, shards=2)
    before = {**domains, "features": coloured(domains, aligned, reference, prior)}
    same(
        fedgraft.run(aligned, out=tmp_path / "run"),
        fedgraft.run(scenario(before, "before", strategy=strategy, shards=2), out=tmp_path / "before-run"),
    )


def test_predict_and_export_take_features_as_they_come(
    domains: dict[str, Any], scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    aligned = scenario(domains, align="standardise", head={"name": "cosine"})
    run = fedgraft.run(aligned, out=tmp_path / "run")
    rows = domains["features"][:9]
    np.save(tmp_path / "rows.npy", rows)
    logits = run.model.head(torch.from_numpy(standardised(domains, aligned)[:9]))
    wanted = logits.softmax(dim=1).detach().numpy()
    found = np.array([prediction.outputs for prediction in run.predict([tmp_path / "rows.npy"])])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    for suffix in (".onnx", ".pt2", ".safetensors"):
        assert export_run(run, tmp_path / f"model{suffix}").largest_difference is not None
    loaded = load_safetensors(tmp_path / "model.safetensors")
    torch.testing.assert_close(loaded(torch.from_numpy(rows))["probabilities"], torch.from_numpy(wanted))


@pytest.mark.parametrize("align", ["coral", "standardise"])
def test_a_model_says_that_features_had_to_be_aligned(
    align: str, domains: dict[str, Any], scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    """CORAL has a map for each domain, which the model lacks; a standardisation is inside."""
    run = fedgraft.run(scenario(domains, align=align, **{"server.rounds": 1}), out=tmp_path / "run")
    notes: list[str] = []
    with listening(lambda event: notes.append(str(event.get("text"))) if event["kind"] == "note" else None):
        fedgraft.load(run.directory).export(tmp_path / "model.safetensors")
    found = load_safetensors(tmp_path / "model.safetensors").card.align
    wanted = "onto the moments of all clients (coral), which the model does not: what the run scored need not hold"
    assert any(wanted in note for note in notes) == (align == "coral")
    assert (found is not None and found.name == "coral") == (align == "coral")


def test_a_resumed_run_goes_on_with_the_same_ground(
    domains: dict[str, Any], scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    aligned = scenario(domains, align="coral")
    run = fedgraft.run(aligned, out=tmp_path / "run")
    head, written = run.head, (tmp_path / "run" / "alignment.safetensors").read_bytes()
    for gone in ("summary.json", "checkpoints/round-000003.safetensors"):
        (tmp_path / "run" / gone).unlink()
    again = fedgraft.run(aligned, out=tmp_path / "run", resume=True)
    assert all((again.head[name] == value).all() for name, value in head.items())
    assert (tmp_path / "run" / "alignment.safetensors").read_bytes() == written
    (tmp_path / "run" / "summary.json").unlink()
    damaged = bytearray(written)
    damaged[-3] ^= 1
    (tmp_path / "run" / "alignment.safetensors").write_bytes(damaged)
    with pytest.raises(FedGraftError, match=r"alignment.safetensors is damaged: its digest is another"):
        fedgraft.run(aligned, out=tmp_path / "run", resume=True)


def test_a_reference_that_is_not_there(
    domains: dict[str, Any], scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    aligned = scenario(domains, align={"name": "coral", "reference": ["site-1", "site-7"]})
    with pytest.raises(ScenarioError, match=r"align.reference: there is no client site-7.*site-0, site-1, site-2"):
        fedgraft.run(aligned, out=tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"unfreeze": {"cut": "blocks.5"}, "backbone": "bundled:efficientnet_lite0"}, "coral beside unfreeze"),
        ({"evaluation.contribution": True, "strategy": "ridge"}, "whose moments hold every client"),
        ({"data.tasks": [[0], [1, 2]]}, "hold classes that have not come yet"),
        ({"strategy": "centralised"}, "no clients whose features could differ; take standardise"),
        ({"align": {"name": "coral", "regularisation": 0}}, "greater than 0"),
        ({"align": "whiten"}, "standardise"),
    ],
    ids=str,
)
def test_what_does_not_go_together(
    changes: dict[str, Any], text: str, domains: dict[str, Any], scenario: Callable[..., Scenario]
) -> None:
    with pytest.raises(ValueError, match=text):
        scenario(domains, **{"align": "coral", **changes})


def test_the_run_says_how_its_features_were_aligned(
    domains: dict[str, Any], scenario: Callable[..., Scenario], tmp_path: Path
) -> None:
    run = fedgraft.run(scenario(domains, align={"name": "coral", "reference": ["site-2"]}), out=tmp_path / "run")
    assert run.summary["align"]["reference"] == ["site-2"]
    text = (tmp_path / "run" / "summary.txt").read_text()
    assert "of each client brought onto the moments of site-2 (coral, full)" in text
    assert yaml.safe_load((tmp_path / "run" / "scenario.yaml").read_text())["align"]["name"] == "coral"
