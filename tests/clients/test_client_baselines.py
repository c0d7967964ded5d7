"""The baselines that every comparison needs: all data in one place, and no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, RecordDict
from plain_loop import batches_of
from small_scenario import host_of
from small_scenarios import small
from torch import nn

import fedgraft
from fedgraft.data.federation import build_federation
from fedgraft.errors import ScenarioError
from fedgraft.randomness import name_key
from fedgraft.submission import RunFacts, Submission
from fedgraft.tensor_files import read_tensors


def last(run: Any, group: str = "central") -> dict[str, Any]:
    return [row for row in run.metrics if row["group"] == group][-1]


@pytest.mark.parametrize("form", ["auto", "loop"])
@pytest.mark.parametrize("shards", [1, 3])
def test_centralised_is_a_tutorials_training_on_all_samples(form: str, shards: int, tmp_path: Path) -> None:
    """A module and torch.optim over the training samples of all clients in one place, two epochs a round."""
    scenario = small(strategy="centralised", shards=shards, **{"train.form": form, "server.clients_per_round": 3})
    run = fedgraft.run(scenario, out=tmp_path / "run")
    federation = build_federation(scenario.data, scenario.seed)
    rows = np.sort(federation.train.indices)
    features = torch.from_numpy(np.asarray(federation.samples.features()[rows], dtype=np.float32))
    targets = torch.from_numpy(np.asarray(federation.samples.targets[rows], dtype=np.int64))
    module = nn.Linear(6, 4)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    for number in range(1, 5):
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for batch in batches_of(scenario.train, scenario.seed, number, name_key("everybody"), len(rows)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(features[batch]), targets[batch]).backward()
            optimizer.step()
    head, _ = read_tensors(run.directory / "head.safetensors")
    np.testing.assert_allclose(head["weight"], module.weight.detach().numpy(), rtol=1e-4, atol=1e-5)
    summary = json.loads((run.directory / "summary.json").read_text())
    assert (summary["num_clients"], summary["num_train"]) == (1, len(rows))
    assert last(run, "validation")["num_samples"] == len(federation.validation.indices)


def test_centralised_resumes(tmp_path: Path) -> None:
    scenario = small(strategy="centralised")
    whole, stopped = (fedgraft.run(scenario, out=tmp_path / name) for name in ("whole", "stopped"))
    sorted((stopped.directory / "checkpoints").iterdir())[-1].unlink()
    (stopped.directory / "summary.json").unlink()
    resumed = fedgraft.run(scenario, out=tmp_path / "stopped", resume=True)
    for file in ("head.safetensors", "client_metrics.csv"):
        assert (resumed.directory / file).read_bytes() == (whole.directory / file).read_bytes()


@pytest.mark.parametrize("block", [{"attack": "sign-flip"}, {"availability.dropout": 0.1}])
def test_in_one_place_nobody_lies_or_stays_away(block: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="came beside strategy centralised, which has no clients"):
        small(strategy="centralised", **block)


def test_a_site_does_not_give_its_data_away() -> None:
    facts = RunFacts(run_id="at-a-site")
    config = {"scenario": Submission(small(strategy="centralised").model_dump_json(), facts).to_run_config()}
    with pytest.raises(
        ScenarioError, match="strategy: centralised pools all clients' data, which a site does not give"
    ):
        host_of(Context(1, 2, {}, RecordDict(), config))


def test_zero_shot_is_the_head_of_the_start(tmp_path: Path) -> None:
    """A head of zeros gives each of four classes the same probability: a loss of log 4."""
    run = fedgraft.run(small(strategy="zero-shot"), out=tmp_path / "run")
    assert [row["round"] for row in run.metrics if row["group"] == "central"] == [0]
    assert last(run)["loss"] == pytest.approx(np.log(4), rel=1e-5)
    assert last(run, "validation")["loss"] == pytest.approx(np.log(4), rel=1e-5)
    assert not [row for row in run.metrics if row["group"] == "train"]
    head, _ = read_tensors(run.directory / "head.safetensors")
    assert not any(value.any() for value in head.values())


def test_zero_shot_with_init_is_the_closed_form(tmp_path: Path) -> None:
    started = fedgraft.run(small(strategy="zero-shot", init="ridge"), out=tmp_path / "started")
    ridge = fedgraft.run(small(strategy="ridge"), out=tmp_path / "ridge")
    assert last(started)["loss"] == last(ridge)["loss"]
    assert last(started)["accuracy"] > 0.5
