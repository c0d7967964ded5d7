"""What TensorBoard and MLflow know of a run, read back by their own readers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from small_scenarios import small

import fedgraft
from fedgraft.errors import FedGraftError
from server import tracking

# Both libraries warn of what will change in them; TensorBoard's reader leaves its files to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> fedgraft.Run:
    pytest.importorskip("tensorboard")
    pytest.importorskip("mlflow")
    out = tmp_path_factory.mktemp("tracked") / "run"
    return fedgraft.run(small(tracking=["tensorboard", "mlflow"], **{"server.rounds": 3}), out=out)


def accuracies(run: fedgraft.Run) -> dict[int, float]:
    return {row["round"]: row["accuracy"] for row in run.metrics if row["group"] == "central"}


def test_tensorboard(run: fedgraft.Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run.directory / "tensorboard"))
    found.Reload()
    scalars = {event.step: event.value for event in found.Scalars("central/accuracy")}
    assert scalars == pytest.approx(accuracies(run), rel=1e-6)  # kept as float32
    assert len(scalars) == 4
    (scenario,) = found.Tensors("scenario/text_summary")
    assert b"name: small" in scenario.tensor_proto.string_val[0]
    hparams = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"train.batch_size" in hparams
    assert b"strategy.name" in hparams


def test_mlflow(run: fedgraft.Run) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=(run.directory.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.tags["fedgraft.run_id"] == run.facts["run_id"]
    assert found.data.params["train.batch_size"] == "8"
    assert found.data.params["strategy.name"] == "fedavg"
    history = client.get_metric_history(found.info.run_id, "central/accuracy")
    assert {entry.step: entry.value for entry in history} == accuracies(run)
    assert found.data.metrics["final/central/accuracy"] == run.summary["central"]["accuracy"]
    names = {entry.path for entry in client.list_artifacts(found.info.run_id)}
    assert {"scenario.yaml", "metrics.jsonl", "head.safetensors"} <= names
    head = client.download_artifacts(found.info.run_id, "head.safetensors")
    assert Path(head).read_bytes() == (run.directory / "head.safetensors").read_bytes()


def test_a_run_that_is_told_again_stands_there_once(run: fedgraft.Run) -> None:
    """As when a run is killed after it has told, and resumed."""
    from mlflow.tracking import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracking.track(["mlflow", "tensorboard"], run.directory, run.summary)
    client = MlflowClient(tracking_uri=(run.directory.parent / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1
    found = EventAccumulator(str(run.directory / "tensorboard"))
    found.Reload()
    assert len(found.Scalars("central/accuracy")) == 4


def test_a_tracker_that_fails_does_not_lose_the_run(run: fedgraft.Run, tmp_path: Path) -> None:
    heard: list[Any] = []
    (tmp_path / "mlruns").write_text("a file where a folder is to be")
    scenario = small(tracking=["mlflow"], **{"server.rounds": 1})
    done = fedgraft.run(scenario, out=tmp_path / "run", on_event=lambda event: heard.append(event.get("text")))
    assert done.finished
    assert any(text and text.startswith("mlflow could not be told of the run: ") for text in heard)


def test_what_is_not_installed_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlflow" else usual(name, *rest)
    )
    with pytest.raises(FedGraftError, match=r"came mlflow, which is not installed; pip install 'fedgraft\[mlflow\]'"):
        fedgraft.run(small(tracking=["mlflow"]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_trackers_are_a_fault() -> None:
    with pytest.raises(ValueError, match="tensorboard"):
        small(tracking=["wandb"])


def test_parameters_are_flat(run: fedgraft.Run) -> None:
    told = tracking._told(run.directory, run.summary)
    assert told.parameters["train.optimizer.learning_rate"] == 0.1
    assert told.parameters["attack"] == "null"
    assert json.loads(str(told.parameters["tracking"])) == ["tensorboard", "mlflow"]
