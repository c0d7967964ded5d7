"""Conducts a clustering: features, moments, Lloyd's steps, and what they come to."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedgraft.clustering.agreement import adjusted_rand, named_accuracy, names_of, normalised_information
from fedgraft.clustering.records import FEW, Cluster, Clustering
from fedgraft.errors import FedGraftError
from fedgraft.files import write_text
from fedgraft.launch import quieten
from fedgraft.preparation import prepare
from fedgraft.progress import report
from fedgraft.survey import open_survey
from fedgraft.tensor_files import save_tensors
from fedgraft.wire.protocol import SCHEMA

if TYPE_CHECKING:
    from scenarios.schema import Scenario
    from server.clusters import Found, Wanted

CLUSTERS_FILE = "clusters.json"
SHOWN_AXES = 50


@dataclass(frozen=True)
class Options:
    """How a clustering is made; see `fedgraft.cluster`."""

    wanted: Wanted
    out: Path | None = None
    verbose: bool = False


def cluster(scenario: Scenario, options: Options) -> Clustering:
    """Cluster the training samples of a scenario that has been checked, and write what came out.

    Raises:
        FedGraftError: anything that the user can mend.
    """
    _check(scenario, options.wanted)
    quieten(options.verbose)
    with open_survey(scenario, CLUSTERS_FILE, options.out, options.verbose) as survey:
        from server.clusters import find_clusters

        _, feature_dim = prepare(survey.scenario, keep_data=True)
        started = time.perf_counter()
        found = survey.ask(partial(find_clusters, wanted=options.wanted), survey.scenario, feature_dim)
        made = _clustering(scenario.name, found, options.wanted, survey.directory, time.perf_counter() - started)
        _write(made)
    return made


def _check(scenario: Scenario, wanted: Wanted) -> None:
    """Refuse what can't be clustered.

    Raises:
        FedGraftError: says what to do instead.
    """
    if scenario.data.at_sites:
        raise FedGraftError(
            "the data lie at sites, which answer no request for clusters: cluster at one site, with its own data in a "
            "scenario (data.source: folder, csv, arrays)"
        )
    if scenario.runtime.name == "flower":
        raise FedGraftError("clusters are found inline or on ray, not in Flower's runtime; give --runtime inline")
    if scenario.align is not None:
        raise FedGraftError("align came, but clusters are of features as they are; set align to null")
    for name, least in (("clusters", 2), ("starts", 1), ("steps", 1), ("components", 1), ("labelled", 0)):
        value = getattr(wanted, name)
        if value is not None and value < least:
            raise FedGraftError(f"{name}: came {value}; expected a whole number of at least {least}")


def _clustering(name: str, found: Found, wanted: Wanted, directory: Path, seconds: float) -> Clustering:
    sums, roster = found.sums, found.roster
    by_client, counts = sums["client_count"], sums["count"][0]
    num_samples = int(counts.sum())
    votes, labels = sums.get("votes"), roster.label_names
    named = names_of(votes) if votes is not None and wanted.labelled else (None,) * len(counts)
    clusters = tuple(
        Cluster(
            int(count),
            int((own > 0).sum()),
            float(own.max() / count) if count else 0.0,
            None if who is None else labels[who],
        )
        for count, own, who in zip(counts, by_client.T, named, strict=True)
    )
    few = sum(0 < one.size < FEW for one in clusters)
    if few:
        report(
            "note",
            text=f"{few} of {len(clusters)} clusters have fewer than {FEW} samples, of whom their centres say much",
        )
    if not found.converged:
        report(
            "note",
            text=f"after {wanted.steps} step{'s' if wanted.steps > 1 else ''} samples still changed their cluster; "
            "give more --steps",
        )
    total = float(found.variances[: len(found.axes)].sum()) * num_samples
    contingency = sums.get("contingency")
    accuracy = named_accuracy(named, sums["validation"]) if any(who is not None for who in named) else None
    whole = max(float(found.variances.sum()), np.finfo(np.float64).tiny)
    return Clustering(
        scenario=name,
        num_clients=len(roster.names),
        num_samples=num_samples,
        feature_dim=len(found.mean),
        components=wanted.components,
        explained_variance_ratio=tuple((found.variances / whole)[:SHOWN_AXES].tolist()),
        clusters=clusters,
        inertias=tuple(found.inertias.tolist()),
        starts=found.starts,
        converged=found.converged,
        explained=1 - float(found.inertias[-1]) / total if total else 0.0,
        silhouette=float(sums["silhouette"]) / num_samples,
        adjusted_rand=None if contingency is None else adjusted_rand(contingency),
        normalised_information=None if contingency is None else normalised_information(contingency),
        named_accuracy=accuracy,
        num_bytes=found.counters.bytes_down + found.counters.bytes_up,
        seconds=seconds,
        directory=directory,
        centres=found.centres,
        axes=found.axes,
        mean=found.mean,
        client_counts=by_client,
        client_names=roster.names,
    )


def _write(made: Clustering) -> None:
    """Write centres and axes, sizes by client, and last what it all comes to."""
    arrays = {"centres": made.centres, "axes": made.axes, "mean": made.mean}
    save_tensors(made.directory / "clusters.safetensors", arrays, {"schema": SCHEMA, "scenario": made.scenario})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("client", "cluster", "num_train"))
    for name, row in zip(made.client_names, made.client_counts.tolist(), strict=True):
        writer.writerows((name, number, count) for number, count in enumerate(row, 1) if count)
    write_text(made.directory / "clusters.csv", buffer.getvalue())
    write_text(made.directory / CLUSTERS_FILE, json.dumps(made.as_json(), indent=1) + "\n")
