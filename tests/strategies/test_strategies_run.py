"""Every strategy of the registry on real digits, from scenario to results, in this process."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedgraft
from clients.host import forget_hosts
from fedgraft.errors import ScenarioError
from scenarios.schema import Scenario
from strategies.base import Strategy
from strategies.registry import STRATEGIES

DIGITS: dict[str, Any] = {
    "name": "digits",
    "data": {
        "source": {"name": "arrays", "path": ""},
        "partition": {"name": "dirichlet", "clients": 12, "alpha": 1.0},
        "test_fraction": 0.2,
    },
    "backbone": "identity",
    "train": {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
    "server": {"rounds": 5, "checkpoint_every": 2},
}
"""Of 10 classes; a head of zeros gives 0.1 of the answers and has a loss of log 10."""

PARAMETERS: dict[str, dict[str, Any]] = {
    "flower:<Class>": {"name": "flower:FedMedian"},
}


@pytest.fixture(autouse=True, scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Scikit-learn's digits, whose 64 pixels are the features."""
    from sklearn.datasets import load_digits

    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    features, labels = load_digits(return_X_y=True)
    np.savez(path, features=(features / 16).astype(np.float32), labels=labels)
    DIGITS["data"]["source"]["path"] = str(path)
    yield
    forget_hosts()


def scenario(strategy: dict[str, Any], **blocks: Any) -> Scenario:
    kind = STRATEGIES.get(strategy["name"])
    head = {"head": {"name": "adapter", "rank": 32}} if kind is not None and kind.heads == ("adapter",) else {}
    return Scenario.model_validate_json(json.dumps({**DIGITS, **head, **blocks, "strategy": strategy}))


def judged(name: str) -> str:
    """Return whose rows tell whether training helps: what is local stays so, and the global head as it was."""
    return "personal" if name in ("local-only", "fedper", "fedrep") else "central"


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "zero-shot"])
def test_beats_its_start(name: str, tmp_path: Path) -> None:
    run = fedgraft.run(scenario({"name": name, **PARAMETERS.get(name, {})}), out=tmp_path / "run")
    central = [row for row in run.metrics if row["group"] == judged(name)]
    assert [row["round"] for row in central] == list(range(1 + (STRATEGIES[name].most_rounds or 5)))
    assert central[-1]["loss"] < 0.9 * central[0]["loss"]
    assert central[-1]["accuracy"] > central[0]["accuracy"] + 0.2
    for row in run.metrics:
        assert all(np.isfinite(value) for value in row.values() if isinstance(value, float)), row


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "zero-shot"])
def test_clients_need_not_have_every_class(name: str, tmp_path: Path) -> None:
    """Three of ten classes at each client."""
    partition = {"name": "pathological", "clients": 12, "classes_per_client": 3}
    blocks = {"data": {**DIGITS["data"], "partition": partition}, "server": {"rounds": 3}}
    run = fedgraft.run(scenario({"name": name, **PARAMETERS.get(name, {})}, **blocks), out=tmp_path / "run")
    central = [row for row in run.metrics if row["group"] == judged(name)]
    assert central[-1]["accuracy"] > 0.1
    for row in run.metrics:
        assert all(np.isfinite(value) for value in row.values() if isinstance(value, float)), row


PERSONAL = [name for name, strategy in STRATEGIES.items() if strategy.personal is not Strategy.personal]


@pytest.mark.parametrize("name", PERSONAL)
def test_own_heads_are_reported_beside_the_global_one(name: str, tmp_path: Path) -> None:
    """Per client, and over clients: the mean, and of 12 clients the worst 2, computed here from the rows."""
    run = fedgraft.run(scenario({"name": name}), out=tmp_path / "run")
    with (run.directory / "client_metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["round"] == str(STRATEGIES[name].most_rounds or 5)]
    for group in ("personal", "validation"):
        scores = sorted(float(row["score"]) for row in rows if row["part"] == group)
        assert len(scores) == 12
        assert run.summary[group]["client_mean"] == pytest.approx(np.mean(scores), rel=1e-6)
        assert run.summary[group]["client_worst_decile"] == pytest.approx(np.mean(scores[:2]), rel=1e-6)
    assert run.summary["personal"]["client_mean"] > 0.5
    text = " ".join((run.directory / "summary.txt").read_text().split())
    assert f"accuracy, own heads, mean of clients {run.summary['personal']['client_mean']:.4f}" in text


@pytest.mark.parametrize("name", ["fedadam", "centred-clipping", "fedrep", "fedrod"])
def test_resumes_with_its_state(name: str, tmp_path: Path) -> None:
    """Resumed from the checkpoint after the fourth of five rounds: the bits of five at once."""
    whole = fedgraft.run(scenario({"name": name}), out=tmp_path / "whole")
    stopped = fedgraft.run(scenario({"name": name}), out=tmp_path / "stopped")
    for path in sorted((stopped.directory / "checkpoints").iterdir())[1:]:
        path.unlink()
    (stopped.directory / "summary.json").unlink()
    resumed = fedgraft.run(scenario({"name": name}), out=tmp_path / "stopped", resume=True)
    for file in ("head.safetensors", "client_metrics.csv"):
        assert (resumed.directory / file).read_bytes() == (whole.directory / file).read_bytes()


def test_too_few_clients_are_a_fault_of_the_scenario() -> None:
    partition = {"name": "dirichlet", "clients": 6, "alpha": 1.0}
    data = {**DIGITS["data"], "partition": partition}
    text = r"krum with num_malicious 2 needs 2 x 2 \+ 3 = 7 clients with training samples in a round, there are 6"
    with pytest.raises(ValueError, match=text):
        scenario({"name": "krum", "num_malicious": 2}, data=data)
    with pytest.raises(ValueError, match=r"bulyan with num_malicious 1 needs .* there are 5"):
        scenario({"name": "bulyan"}, server={"clients_per_round": 5})
    with pytest.raises(ValueError, match="there are 6"):
        scenario({"name": "bulyan"}, server={"clients_fraction": 0.5})
    assert scenario({"name": "krum", "num_malicious": 2}).strategy.name == "krum"


def test_too_few_natural_clients_are_found_before_the_first_round(tmp_path: Path) -> None:
    """How many there are, and who has training samples, is known when the hosts have described themselves."""
    source = {"name": "synthetic", "num_samples": 60, "num_features": 4, "num_clients": 6}
    natural = scenario(
        {"name": "krum", "num_malicious": 2}, data={"source": source, "partition": "natural"}, backbone="identity"
    )
    with pytest.raises(ScenarioError, match=r"strategy: krum with num_malicious 2 needs .* there are 6"):
        fedgraft.run(natural, out=tmp_path / "run")


@pytest.mark.parametrize("name", ["fednova", "qfedavg"])
def test_optimizer_under_which_the_equations_do_not_hold(name: str) -> None:
    text = f"came adam, but the equations of strategy {name} hold under sgd only; take that, or another strategy"
    with pytest.raises(ValueError, match=text):
        scenario({"name": name}, train={"optimizer": {"name": "adam"}})


@pytest.mark.parametrize("name", ["fedper", "fedrep", "fedbabu", "fedrod"])
def test_what_shares_an_adapter_needs_a_head_with_one(name: str, tmp_path: Path) -> None:
    text = f"head: came linear, but strategy {name} makes an adapter head; set head: adapter"
    with pytest.raises(ScenarioError, match=text):
        fedgraft.run(scenario({"name": name}, head={"name": "linear"}), out=tmp_path / "run")
