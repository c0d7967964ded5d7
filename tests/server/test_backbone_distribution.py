"""A host that lacks the backbone's weights gets them from the server, once; other weights are refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from small_scenarios import changed, relative_difference

import fedgraft
from clients.app import app as client_app
from clients.host import forget_hosts
from fedgraft.errors import FedGraftError
from fedgraft.progress import listening
from fedgraft.simulation.flower_identity import claim_identity
from fedgraft.simulation.inline import InlineGrid
from fedgraft.submission import RunFacts, Submission
from scenarios.schema import Scenario
from server.app import app as server_app

MODEL = "timm:mobilenetv3_small_050"
SCENARIO: dict[str, Any] = {
    "name": "sent",
    "backbone": {"name": MODEL, "input_size": 32},
    "data": {
        "source": {"name": "synthetic", "kind": "images", "image_size": 32, "num_samples": 60, "num_classes": 3},
        "partition": {"name": "iid", "clients": 3},
        "test_fraction": 0.0,
    },
    "server": {"rounds": 2},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights, which no other machine could guess."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    file = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    save_file(timm.create_model("mobilenetv3_small_050").state_dict(), file)
    return file


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget_hosts()
    yield
    forget_hosts()


def scenario_with(weights: Path) -> Scenario:
    return Scenario.model_validate_json(json.dumps(changed(SCENARIO, {"backbone.weights": str(weights)})))


class Watched(InlineGrid):
    """Counts the messages that carry weights, and changes them on the way if it is told to."""

    num_carrying = 0
    tamper = False

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        for message in messages:
            if "weights" in message.content:
                self.num_carrying += 1
                if self.tamper:
                    arrays = {name: array.numpy() for name, array in message.content["weights"].items()}
                    arrays["classifier.bias"] = arrays["classifier.bias"] + np.float32(1)
                    record = ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})
                    message.content["weights"] = record
        return super().push_messages(messages)


def conducted(server_has: Path, hosts_have: list[Path], out: Path, tamper: bool = False) -> tuple[int, list[str]]:
    """Run server and hosts whose weights lie at different places; return how often weights went out, and notes."""
    forget_hosts()
    claim_identity(1)
    facts = RunFacts(run_id="run-00000001", directory=str(out), num_hosts=len(hosts_have))

    def context(node: int, weights: Path, node_config: dict[str, Any]) -> Context:
        submission = Submission(scenario_with(weights).model_dump_json(), facts)
        return Context(1, node, node_config, RecordDict(), {"scenario": submission.to_run_config()})

    hosts = {
        2 + number: context(2 + number, path, {"partition-id": number, "num-partitions": len(hosts_have)})
        for number, path in enumerate(hosts_have)
    }
    grid = Watched(client_app, hosts)
    grid.tamper = tamper
    notes: list[str] = []
    with listening(lambda event: notes.append(event["text"]) if event["kind"] == "note" else None):
        server_app(grid, context(1, server_has, {}))
    return grid.num_carrying, notes


def test_sent_once_and_gives_the_same_head(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = tmp_path / "nowhere.safetensors"
    num_carrying, notes = conducted(weights, [nowhere], tmp_path / "sent")
    assert num_carrying == 1
    assert "backbone weights sent to 1 host" in notes
    sent = fedgraft.load(tmp_path / "sent")
    assert sent.summary["bytes_down"] > weights.stat().st_size

    num_carrying, notes = conducted(weights, [nowhere], tmp_path / "kept")
    assert num_carrying == 0
    kept = fedgraft.load(tmp_path / "kept")
    assert kept.summary["bytes_down"] < 0.1 * weights.stat().st_size

    # The same with the file at hand, and nothing of the above in the cache.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another cache"))
    local = fedgraft.run(scenario_with(weights), out=tmp_path / "local")
    for name, value in local.head.items():
        assert np.abs(value).max() > 0
        np.testing.assert_array_equal(sent.head[name], value)
        np.testing.assert_array_equal(kept.head[name], value)


def test_only_the_host_that_lacks_them_gets_them(weights: Path, tmp_path: Path) -> None:
    """One of two hosts has the file; the cache of kept weights is one a machine, so both have them afterwards."""
    scenario_file_hosts = [weights, tmp_path / "nowhere.safetensors"]
    num_carrying, _ = conducted(weights, scenario_file_hosts, tmp_path / "run")
    assert num_carrying == 1


def test_a_host_with_other_weights_gets_the_run_s(weights: Path, tmp_path: Path) -> None:
    """The host's own file is of the same architecture; its features would be others, silently."""
    import torch
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other.safetensors"
    state = load_file(weights)
    save_file({**state, "conv_stem.weight": torch.zeros_like(state["conv_stem.weight"])}, other)
    num_carrying, _ = conducted(weights, [other], tmp_path / "run")
    assert num_carrying == 1
    local = fedgraft.run(scenario_with(weights), out=tmp_path / "local")
    assert relative_difference(fedgraft.load(tmp_path / "run").head["weight"], local.head["weight"]) == 0


def test_weights_of_another_digest_are_refused(weights: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.safetensors"
    with pytest.raises(FedGraftError, match=r"host 2 failed in 'backbone': .*with digest \w{12} came, \w{12} was ann"):
        conducted(weights, [nowhere], tmp_path / "run", tamper=True)
    assert not list((tmp_path / "cache" / "fedgraft" / "weights").glob("*"))


def test_damaged_kept_weights_are_asked_for_anew(weights: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.safetensors"
    conducted(weights, [nowhere], tmp_path / "first")
    [kept] = (tmp_path / "cache" / "fedgraft" / "weights").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-1000])
    # Features are in the store by now; without it the weights are needed again.
    for entry in (tmp_path / "cache" / "fedgraft" / "features").rglob("*"):
        if entry.is_file():
            entry.unlink()
    with pytest.raises(FedGraftError, match="were damaged and have been removed; run again to get them anew"):
        conducted(weights, [nowhere], tmp_path / "second")
    num_carrying, _ = conducted(weights, [nowhere], tmp_path / "third")
    assert num_carrying == 1
