"""What TensorBoard and MLflow are told of a run: its settings, its metrics over rounds, its files.

It is told at the run's end, from the run directory, so that what a resumed run repeats is not told twice. TensorBoard's
files lie in the run directory, MLflow's file store beside it (`mlruns/`), shared by all runs of that folder.
"""

from __future__ import annotations

import importlib.util
import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedgraft.errors import FedGraftError
from fedgraft.features.locks import locked
from fedgraft.metrics import metric_rows
from fedgraft.progress import report

FOLDER = "tensorboard"
STORE = "mlruns"
RUN_TAG = "fedgraft.run_id"
FILES = ("scenario.yaml", "summary.json", "metrics.jsonl", "client_metrics.csv", "head.safetensors", "accuracy.png")
"""Of a run directory: what MLflow keeps a copy of."""

LONGEST_VALUE = 500
"""Characters of a parameter, which MLflow limits."""

MOST_PARAMETERS, MOST_METRICS = 100, 1000
"""In one call of MLflow."""

_NEEDS = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


@dataclass(frozen=True)
class Told:
    """A run as trackers are told of it.

    Attributes:
        directory: the run's.
        run_id: ours.
        name: the scenario's.
        parameters: the scenario's keys, dotted, each with a short value.
        rows: those of `metrics.jsonl`.
        summary: what came out.
    """

    directory: Path
    run_id: str
    name: str
    parameters: Mapping[str, str | float | bool]
    rows: Iterable[Mapping[str, Any]]
    summary: Mapping[str, Any]

    def scalars(self) -> Iterable[tuple[str, int, float]]:
        """Yield each number of each row: `group/metric`, round, value."""
        for row in self.rows:
            for name, value in row.items():
                if name not in ("round", "group") and isinstance(value, int | float):
                    yield f"{row['group']}/{name}", int(row["round"]), float(value)

    def final(self) -> dict[str, float]:
        """Return the metrics that the run ended with, under names of their own: `final/central/accuracy`."""
        parts = ("central", "validation", "personal")
        return {
            f"final/{part}/{name}": float(value) for part in parts for name, value in self.summary.get(part, {}).items()
        }


def check_installed(trackers: Iterable[str]) -> None:
    """Refuse a tracker whose extra is not installed, before the run rather than at its end.

    Raises:
        FedGraftError: says how to install it.
    """
    for name in trackers:
        if importlib.util.find_spec(_NEEDS[name]) is None:
            raise FedGraftError(
                f"tracking: came {name}, which is not installed; pip install 'fedgraft[{name}]', or leave it out"
            )


def track(trackers: Iterable[str], directory: Path, summary: Mapping[str, Any]) -> None:
    """Tell trackers of a run; one that fails is a note, since the run itself is whole."""
    trackers = tuple(trackers)
    if not trackers:
        return
    told = _told(directory, summary)
    for name in trackers:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what these libraries will change
                _TRACKERS[name](told)
        except Exception as error:  # whatever such a library raises
            report("note", text=f"{name} could not be told of the run: {type(error).__name__}: {error}")


def _told(directory: Path, summary: Mapping[str, Any]) -> Told:
    import yaml

    facts = json.loads((directory / "run.json").read_text())
    scenario = yaml.safe_load((directory / "scenario.yaml").read_text())
    return Told(directory, facts["run_id"], facts["name"], dict(_flat(scenario)), metric_rows(directory), summary)


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, str | float | bool]]:
    """Yield the leaves of settings by dotted key; what is no number or switch as text."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        elif isinstance(value, bool | int | float):
            yield f"{above}{key}", value
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            yield f"{above}{key}", text[:LONGEST_VALUE]


def _tell_tensorboard(told: Told) -> None:
    from torch.utils.tensorboard import SummaryWriter

    folder = told.directory / FOLDER
    for old in folder.glob("events.out.tfevents.*"):  # of a run that was ended while it told
        old.unlink()
    with SummaryWriter(str(folder)) as writer:
        for name, step, value in told.scalars():
            writer.add_scalar(name, value, step)
        scenario = (told.directory / "scenario.yaml").read_text()
        writer.add_text("scenario", f"```yaml\n{scenario}\n```")
        writer.add_hparams(dict(told.parameters), told.final(), run_name=".")


def _tell_mlflow(told: Told) -> None:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 would rather have a database
    store = told.directory.parent / STORE
    client = MlflowClient(tracking_uri=store.absolute().as_uri())
    now = int(1000 * time.time())
    store.mkdir(exist_ok=True)
    with locked(store.parent / f".{STORE}.lock"):  # runs side by side must not make one experiment twice
        found = client.get_experiment_by_name(told.name)
        experiment = client.create_experiment(told.name) if found is None else found.experiment_id
    for old in client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{told.run_id}'"):
        client.delete_run(old.info.run_id)
    run = client.create_run(experiment, tags={RUN_TAG: told.run_id}, run_name=told.directory.name).info.run_id
    parameters = [Param(key, str(value)) for key, value in told.parameters.items()]
    metrics = [Metric(name, value, now, step) for name, step, value in told.scalars()]
    metrics += [Metric(name, value, now, 0) for name, value in told.final().items()]
    for start in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(run, params=parameters[start : start + MOST_PARAMETERS])
    for start in range(0, len(metrics), MOST_METRICS):
        client.log_batch(run, metrics=metrics[start : start + MOST_METRICS])
    client.log_batch(run, tags=[RunTag("fedgraft.strategy", str(told.summary["strategy"]))])
    for name in FILES:
        if (told.directory / name).exists():
            client.log_artifact(run, str(told.directory / name))
    client.set_terminated(run)


_TRACKERS = {"tensorboard": _tell_tensorboard, "mlflow": _tell_mlflow}
