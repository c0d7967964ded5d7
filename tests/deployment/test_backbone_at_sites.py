"""The backbone between real processes: sent whole, once, to sites that lack it, and trained where it may be."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_fleet import (
    Seen,
    greatest_difference,
    head_of,
    in_one_process,
    ledgers,
    pause,
    run,
    running_fleet,
)
from safetensors.numpy import load_file

from fedgraft.rehearsal import Fleet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BIAS = "blocks.5.0.bn1.bias"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, which no site could guess."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    model = timm.create_model("mobilenetv3_small_050").train()
    for _ in range(20):  # so that its batch norms hand on something that can be trained
        model(torch.rand(32, 3, 32, 32))
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def running(cache_of_the_session: None, weights: Path) -> Iterator[Fleet]:
    backbone = {"name": "timm:mobilenetv3_small_050", "input_size": 32, "weights": str(weights)}
    server = {"rounds": 2, "resend_seconds": 20.0}
    train = {"optimizer": {"name": "sgd", "learning_rate": 0.01}, "batch_size": 50}  # small enough not to diverge
    with running_fleet("backbone_training: true\n", backbone=backbone, server=server, train=train) as found:
        yield found


def test_weights_that_do_not_arrive_are_sent_again_and_afterwards_no_more(
    running: Fleet, weights: Path, tmp_path: Path
) -> None:
    """A site's host stands still when it has said what it lacks, and is killed with the weights at its door."""
    killed: list[int] = []

    def interrupt(seen: Seen) -> Iterator[None]:
        ids = running.supervisor.process_ids()
        while not [line for line in ledgers(running)["clinic-2"] if line.entry.request == "query.backbone"]:
            yield
        os.kill(ids["clinic-2 host"], signal.SIGSTOP)
        yield from pause(10)
        for name in ("clinic-2 messenger", "clinic-2 host"):
            os.kill(ids[name], signal.SIGKILL)
            killed.append(ids[name])

    done, notes = run(running, tmp_path / "sent", interrupt)
    assert len(killed) == 2
    assert "backbone weights sent to 3 sites" in notes
    size = weights.stat().st_size
    assert done.summary["bytes_down"] > 4 * size  # to one of them at least twice

    expected = in_one_process(running, tmp_path / "data", tmp_path / "inline")
    assert greatest_difference(head_of(done), head_of(expected)) <= 1e-6
    again, notes = run(running, tmp_path / "again")
    assert not [note for note in notes if "backbone weights" in note]
    assert again.summary["bytes_down"] < 0.1 * size
    assert greatest_difference(head_of(again), head_of(expected)) <= 1e-6


def test_blocks_trained_at_sites_are_those_of_one_process(running: Fleet, weights: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"unfreeze": {"cut": "blocks.4"}}
    done, _ = run(running, tmp_path / "deployed", **changes)
    expected = in_one_process(running, tmp_path / "data", tmp_path / "inline", **changes)
    trained, before = head_of(done), load_file(weights)
    assert {name.split(".")[0] for name in trained} == {"backbone", "weight", "bias"}
    assert greatest_difference(trained, head_of(expected)) <= 1e-6
    moved = [np.abs(trained[f"backbone.{name}"] - before[name]).max() for name in ("blocks.5.0.conv.weight", BIAS)]
    assert min(moved) > 1e-5


def test_stages_with_lora_at_sites_are_those_of_one_process(running: Fleet, tmp_path: Path) -> None:
    """A closed form, then matrices of low rank in the blocks past a cut: of these only they travel."""
    lora = {"cut": "blocks.4", "method": {"name": "lora", "rank": 2}}
    once, twice = ({"rounds": rounds, "resend_seconds": 20.0} for rounds in (1, 2))
    closed = {"name": "closed-form", "strategy": "ridge", "server": once}
    adapters = {"name": "adapters", "strategy": "fedavg", "unfreeze": lora, "server": twice}
    changes: dict[str, Any] = {"stages": [closed, adapters]}
    done, _ = run(running, tmp_path / "deployed", **changes)
    expected = in_one_process(running, tmp_path / "data", tmp_path / "inline", **changes)
    assert [stage["rounds"] for stage in done.summary["stages"]] == [1, 2]
    trained = head_of(done)
    assert any("lora" in name for name in trained)
    assert greatest_difference(trained, head_of(expected)) <= 1e-5  # products of two thin matrices


def test_features_aligned_at_sites_are_those_of_one_process(running: Fleet, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"align": {"name": "coral", "covariance": "diagonal"}}
    done, _ = run(running, tmp_path / "deployed", **changes)
    expected = in_one_process(running, tmp_path / "data", tmp_path / "inline", **changes)
    assert greatest_difference(head_of(done), head_of(expected)) <= 1e-6
    plain = in_one_process(running, tmp_path / "plain-data", tmp_path / "plain")
    assert greatest_difference(head_of(done), head_of(plain)) > 1e-4
