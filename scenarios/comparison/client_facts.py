"""What clients are like, from their data: how many samples, how skewed their labels, how far off their features.

It is computed by whoever has the simulation's data, once a split, and kept beside the comparison.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedgraft.errors import FedGraftError
from fedgraft.files import write_text

if TYPE_CHECKING:
    from fedgraft.data.federation import Federation
    from scenarios.schema import Scenario

FOLDER = "clients"
MOST_VALUES = 10**9
"""Features of all samples, in numbers, up to which distances are computed: a pass over them takes some seconds."""

ROWS_AT_ONCE = 8192
_COLUMNS = ("client", "num_train", "num_validation", "label_skew", "distance")
_VERSION = 1  # of the formulas; a change of them needs another


@dataclass(frozen=True)
class ClientFacts:
    """One client's data; see `ClientRow` of `client_findings`.

    Attributes:
        num_train: training samples.
        num_validation: validation samples.
        label_skew: half the summed differences between its and the federation's shares of labels; None for real
            targets.
        distance: of its mean feature from the federation's; None where there are too many features, or no samples.
    """

    num_train: int
    num_validation: int
    label_skew: float | None
    distance: float | None


def client_facts(scenario: Scenario, directory: Path | None) -> dict[str, ClientFacts] | None:
    """Return each client's facts by name, as kept below a comparison's directory, or of the data; None: not at hand.

    Args:
        scenario: of a run; only its data, seed, backbone and features matter.
        directory: the comparison's; None: nothing is kept.
    """
    path = None if directory is None else directory / FOLDER / f"{_digest(scenario)}.csv"
    if path is not None and path.exists():
        kept = _read(path)
        if kept is not None:
            return kept
    from fedgraft.workspace import open_workspace

    try:
        workspace = open_workspace(scenario.data, scenario.seed, scenario.backbone, scenario.features)
        federation = workspace.federation
        features = workspace.features if len(federation.samples.targets) else None
    except (FedGraftError, OSError):  # the runs were made on another machine, whose data are not here
        return None
    found = facts_of(federation, features)
    if path is not None:
        _write(path, found)
    return found


def facts_of(federation: Federation, features: NDArray[Any] | None) -> dict[str, ClientFacts]:
    """Return each client's facts by name.

    Args:
        federation: who owns which samples.
        features: `(num_samples, feature_dim)` of all samples; None: distances stay unknown.
    """
    sizes = federation.train.counts + federation.validation.counts
    skews = _label_skews(federation.label_counts()) if federation.samples.task != "real" else None
    known = features is not None and features.size <= MOST_VALUES
    distances = _distances(federation, features) if features is not None and known else None
    return {
        name: ClientFacts(
            num_train=int(federation.train.counts[number]),
            num_validation=int(federation.validation.counts[number]),
            label_skew=float(skews[number]) if skews is not None and sizes[number] else None,
            distance=float(distances[number]) if distances is not None and sizes[number] else None,
        )
        for number, name in enumerate(federation.client_names)
    }


def _label_skews(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return half the summed absolute differences of shares, `(num_clients,)`, from 0 (alike) to 1 (nothing shared)."""
    of_all = counts.sum(axis=0) / max(1, counts.sum())
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    return np.asarray(0.5 * np.abs(shares - of_all).sum(axis=1))


def _distances(federation: Federation, features: NDArray[Any]) -> NDArray[np.float64]:
    """Return how far each client's mean feature is from the mean of all, `(num_clients,)`.

    With means `m_k` and `m`, and the variances `s^2` of all samples, feature by feature: the root of the mean of
    `(m_k - m)^2 / s^2`, less `1 / n_k - 1 / N`, which is what a random draw of `n_k` of the `N` samples gives.
    """
    num_clients, dim = federation.num_clients, features.shape[1]
    rows = np.concatenate([federation.train.indices, federation.validation.indices])
    owners = np.concatenate([federation.train.owners, federation.validation.owners])
    order = np.argsort(owners, kind="stable")
    rows, owners = rows[order], owners[order]
    sums, square = np.zeros((num_clients, dim)), np.zeros(dim)
    shift = np.asarray(features[rows[:ROWS_AT_ONCE]], dtype=np.float64).mean(axis=0)  # against cancelling in squares
    for first in range(0, len(rows), ROWS_AT_ONCE):
        block = np.asarray(features[rows[first : first + ROWS_AT_ONCE]], dtype=np.float64) - shift
        here = owners[first : first + ROWS_AT_ONCE]
        starts = np.flatnonzero(np.diff(here, prepend=-1))
        sums[here[starts]] += np.add.reduceat(block, starts, axis=0)
        square += np.square(block).sum(axis=0)
    count, total = np.bincount(owners, minlength=num_clients), len(rows)
    mean = sums.sum(axis=0) / total
    variance = (square - total * np.square(mean)) / max(1, total - 1)
    varying = variance > 1e-12 * np.maximum(square / total, 1e-300)
    if not varying.any():
        return np.zeros(num_clients)
    some = np.maximum(1, count)[:, None]
    offsets = np.square(sums / some - mean)[:, varying] / variance[varying]
    excess = offsets.mean(axis=1) - (1 / some[:, 0] - 1 / total)
    return np.asarray(np.sqrt(np.maximum(0.0, excess)))


def _digest(scenario: Scenario) -> str:
    blocks = [scenario.data, scenario.backbone, scenario.features]
    text = "\0".join([str(_VERSION), str(scenario.seed), *(block.model_dump_json() for block in blocks)])
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _write(path: Path, facts: Mapping[str, ClientFacts]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows((name, *("" if value is None else value for value in astuple(of))) for name, of in facts.items())
    write_text(path, buffer.getvalue())


def _read(path: Path) -> dict[str, ClientFacts] | None:
    """Return kept facts; None where the file is damaged, so that they are made again."""

    def number(text: str) -> float | None:
        return json.loads(text) if text else None

    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {
            row["client"]: ClientFacts(
                int(row["num_train"]),
                int(row["num_validation"]),
                number(row["label_skew"]),
                number(row["distance"]),
            )
            for row in rows
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None
