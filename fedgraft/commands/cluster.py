"""`fedgraft cluster`."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedgraft.commands.bar_display import BarDisplay
from fedgraft.commands.terminal import (
    JsonOption,
    QuietOption,
    RuntimeOption,
    ScenarioArgument,
    SetOption,
    VerboseOption,
    err,
    escaped,
    out,
    shown,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fedgraft.clustering.records import Clustering
    from fedgraft.progress import Event

MOST_SHOWN = 30


def cluster(
    scenario: ScenarioArgument,
    clusters: Annotated[int, typer.Option("--clusters", "-k", help="How many clusters.")],
    components: Annotated[
        int | None,
        typer.Option(help="Principal axes onto which features are projected first; default: they stay as they are."),
    ] = None,
    starts: Annotated[int, typer.Option(help="Draws of first centres that are tried; the best one counts.")] = 8,
    steps: Annotated[int, typer.Option(help="Steps at most.")] = 300,
    labelled: Annotated[
        int, typer.Option(help="Samples of each class and client that say which classes clusters are.")
    ] = 0,
    overrides: SetOption = [],  # noqa: B006 - typer reads it, nobody changes it
    runtime: RuntimeOption = None,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Its folder; default: a new one below clusterings/.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find clusters in clients' features without labels, and the principal axes, from sums.

    Example: [bold]fedgraft cluster quickstart --clusters 10 --components 20[/]
    """
    from fedgraft import api

    with contextlib.ExitStack() as stack:
        show = None if quiet or as_json else stack.enter_context(ClusterDisplay(err)).show
        found = api.cluster(
            scenario,
            overrides,
            clusters=clusters,
            components=components,
            starts=starts,
            steps=steps,
            labelled=labelled,
            runtime=runtime,
            out=directory,
            on_event=show,
            verbose=verbose,
        )
    if as_json:
        print(json.dumps(found.as_json()))
    elif not quiet:
        out.print(clusters_table(found))
        for line in clustering_lines(found):
            out.print(line, soft_wrap=True)


class ClusterDisplay(BarDisplay):
    """Shows how far features and steps are."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._task = self._progress.add_task("features", total=None)

    def show(self, event: Event) -> None:
        """Show one event; kinds that are not of interest are passed over."""
        if event["kind"] == "clusters":
            text = f"step {event['step']}, {event['going']} starts going, inertia {event['inertia']:.6g}"
            self._progress.update(self._task, description=text, total=None)
        elif event["kind"] == "progress":
            self._progress.update(self._task, total=event["total"], completed=event["done"])
        elif event["kind"] == "note":
            self.note(event["text"])


def clusters_table(found: Clustering) -> Table:
    """Return the clusters, the largest first."""
    from rich.table import Table

    title = f"{found.scenario}: {found.num_samples:,} training samples of {found.num_clients:,} clients"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    named = any(one.name is not None for one in found.clusters)
    for column in ("cluster", "samples", "share", "clients", "largest client", *(["name"] if named else [])):
        table.add_column(column, justify="left" if column == "name" else "right")
    for number, one in enumerate(found.clusters[:MOST_SHOWN], 1):
        cells = [f"{number}", f"{one.size:,}", f"{100 * one.size / found.num_samples:.1f} %", f"{one.num_clients:,}"]
        cells.append(f"{100 * one.largest_share:.0f} %")
        table.add_row(*cells, *([escaped(one.name or "")] if named else []))
    return table


def clustering_lines(found: Clustering) -> list[str]:
    """Return what the clusters come to."""
    from fedgraft.commands.compare_display import size

    lines = [f"and {len(found.clusters) - MOST_SHOWN:,} more"] if len(found.clusters) > MOST_SHOWN else []
    ended = "converged" if found.converged else "not converged"
    lines.append(
        f"inertia {found.inertias[0]:.6g} to {found.inertias[-1]:.6g} in {len(found.inertias) - 1} steps ({ended}); "
        f"the best of {len(found.starts)} starts, the worst ended at {max(found.starts):.6g}"
    )
    lines.append(f"variance explained by the centres {100 * found.explained:.1f} %, silhouette {found.silhouette:.3f}")
    kept = found.components or min(10, len(found.explained_variance_ratio))
    if kept <= len(found.explained_variance_ratio):
        share = 100 * sum(found.explained_variance_ratio[:kept])
        lines.append(f"the first {kept} principal axes hold {share:.1f} % of the variance")
    if found.adjusted_rand is not None and found.normalised_information is not None:
        lines.append(
            f"against the classes that are there: adjusted Rand index {found.adjusted_rand:.3f}, normalised mutual "
            f"information {found.normalised_information:.3f}"
        )
    if found.named_accuracy is not None:
        lines.append(
            f"named by a few labelled samples: right in {100 * found.named_accuracy:.1f} % of validation samples"
        )
    lines.append(f"sent {size(found.num_bytes)} in {found.seconds:.1f} s")
    return [*lines, f"results: {escaped(shown(found.directory))}"]
