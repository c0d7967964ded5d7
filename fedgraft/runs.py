"""A run as Python sees it: what it was, what came out, and the trained model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fedgraft.errors import StoreError
from fedgraft.metrics import metric_rows

if TYPE_CHECKING:
    from fedgraft.export import ExportReport
    from fedgraft.predict import Prediction
    from fedgraft.trained import TrainedModel
    from fedgraft.unlearning import Contribution
    from scenarios.schema import Scenario


@dataclass(frozen=True)
class Run:
    """One run directory, finished or not.

    Attributes:
        directory: where its files lie.
    """

    directory: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What `run.json` says: run id, seed, versions, revision.

        Raises:
            StoreError: there is no run here, or another release wrote it.
        """
        from server.run_directory import RunDirectory

        return RunDirectory(self.directory).facts()

    @cached_property
    def scenario(self) -> Scenario:
        """The resolved scenario."""
        from scenarios.loader import load_scenario

        return load_scenario(self.directory / "scenario.yaml")

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return (self.directory / "summary.json").exists()

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What came out, and what it cost; see `summary.json`.

        Raises:
            StoreError: the run has not come to its end.
        """
        if not self.finished:
            raise StoreError(f"the run in {self.directory} is not finished; go on with it: fedgraft run ... --resume")
        summary: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        return summary

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, one a round and group; `pandas.DataFrame(run.metrics)` takes them."""
        return metric_rows(self.directory)

    @property
    def head(self) -> dict[str, NDArray[Any]]:
        """The trained head's arrays, by name.

        Raises:
            StoreError: the run has not come to its end.
        """
        from fedgraft.tensor_files import read_tensors

        path = self.directory / "head.safetensors"
        if not path.exists():
            raise StoreError(f"the run in {self.directory} has no head yet; go on with it: fedgraft run ... --resume")
        return read_tensors(path)[0]

    @cached_property
    def model(self) -> TrainedModel:
        """Backbone and head as one frozen torch module, normalisation included; see `fedgraft.trained`.

        Raises:
            StoreError: the run has not come to its end, or its files don't fit together.
            ModelError: the backbone can't be had, or has other weights than it had then.
        """
        from fedgraft.trained import trained_model

        return trained_model(self)

    def predict(self, files: Sequence[str | Path]) -> list[Prediction]:
        """Return what the model says of files and folders; see `fedgraft.predict.predict_files`."""
        from fedgraft.predict import predict_files

        return predict_files(self, files)

    def predict_texts(self, texts: Sequence[str]) -> list[Prediction]:
        """Return what the model says of texts; see `fedgraft.predict_texts.predict_texts`."""
        from fedgraft.predict_texts import predict_texts

        return predict_texts(self, texts)

    def export(self, to: str | Path) -> ExportReport:
        """Write the model as one `.onnx`, `.safetensors` or `.pt2` file; see `fedgraft.export.export_run`."""
        from fedgraft.export import export_run

        return export_run(self, to)

    def contributions(self) -> list[Contribution]:
        """Return what each client's samples changed; see `fedgraft.unlearning.contributions`."""
        from fedgraft.unlearning import contributions

        return contributions(self)

    def unlearn(self, client: str, to: str | Path) -> Run:
        """Write the run as if a client had never been there, and return it; see `fedgraft.unlearning.unlearn`."""
        from fedgraft.unlearning import unlearn

        return Run(unlearn(self, client, to))
