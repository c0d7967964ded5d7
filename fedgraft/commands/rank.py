"""`fedgraft rank`."""

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
    from rich.table import Table

    from fedgraft.progress import Event
    from fedgraft.ranking.records import Ranking, Scored


def rank(
    scenario: ScenarioArgument,
    backbones: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Backbones, by name or as blocks ({name: timm:resnet18, weights: random}); default: the scenario's, "
            "and all known ones whose weights are installed.",
        ),
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option(metavar="all|A,B", help="Cuts of each: all, or some by name; default: that of its settings."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option(help="Also score raw pixels and random weights, which learned nothing.")
    ] = True,
    overrides: SetOption = [],  # noqa: B006 - typer reads it, nobody changes it
    runtime: RuntimeOption = None,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Its folder; default: a new one below rankings/.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Rank backbones and cuts for a scenario's task before anything is trained, and say which to take.

    Example: [bold]fedgraft rank quickstart --backbones bundled:efficientnet_lite0 --cuts all[/]
    """
    from fedgraft import api

    with contextlib.ExitStack() as stack:
        show = None if quiet or as_json else stack.enter_context(RankDisplay(err)).show
        found = api.rank(
            scenario,
            overrides,
            backbones=backbones,
            cuts=cuts,
            baselines=baselines,
            runtime=runtime,
            out=directory,
            on_event=show,
            verbose=verbose,
        )
    if as_json:
        print(json.dumps(found.as_json()))
    elif not quiet:
        out.print(ranking_table(found))
        for line in verdict_lines(found):
            out.print(line, soft_wrap=True)


class RankDisplay(BarDisplay):
    """Shows which candidate is scored, and how far its features are."""

    def show(self, event: Event) -> None:
        """Show one event; kinds that are not of interest are passed over."""
        if event["kind"] == "candidate":
            for task in self._progress.task_ids:
                self._progress.update(task, total=1, completed=1)
                self._progress.stop_task(task)
            what = {"pixels": "baseline ", "random": "baseline "}.get(event["role"], "")
            self._progress.add_task(escaped(f"{what}{event['number']}/{event['of']} {event['title']}"), total=None)
        elif event["kind"] == "progress" and self._progress.task_ids:
            self._progress.update(self._progress.task_ids[-1], total=event["total"], completed=event["done"])
        elif event["kind"] == "note":
            self.note(event["text"])


def ranking_table(found: Ranking) -> Table:
    """Return the candidates, the best first, and below them what learned nothing."""
    from rich.table import Table

    from fedgraft.ranking.records import METRICS

    title = f"{found.scenario}: {found.num_samples:,} training samples of {found.num_clients:,} clients"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "backbone", "cut"):
        table.add_column(column, overflow="fold")
    metric = {"R2": "R²"}.get(METRICS[found.task], METRICS[found.task])
    scores = (metric, "±", "LogME", *(("H-score",) if found.task == "classes" else ()))
    costs = ("px", "features", "ms a picture", "features s", "sums s", "sent")
    for column in (*scores, *costs):
        table.add_column(column, justify="right", no_wrap=True)
    for scored in found.candidates:
        table.add_row("[green]*[/]" if scored is found.best else "", *_cells(scored, found))
    for scored in found.baselines:
        table.add_row("", *_cells(scored, found), style="dim")
    return table


def _cells(scored: Scored, found: Ranking) -> list[str]:
    from fedgraft.commands.compare_display import size
    from fedgraft.ranking.records import Z_95, name_and_cut
    from fedgraft.ranking.verdict import shown as told

    error, pictures = scored.standard_error, scored.picture_seconds
    return [
        *map(escaped, name_and_cut(scored.backbone)),
        told(scored.validated, found.task),
        "" if error is None else f"{100 * Z_95 * error:.1f}",
        f"{scored.log_me:.3f}",
        *([] if scored.h_score is None else [f"{scored.h_score:.3f}"]),
        f"{scored.input_size or ''}",
        f"{scored.feature_dim:,}",
        "" if pictures is None else f"{1000 * pictures:.2f}",
        f"{scored.feature_seconds:.1f}",
        f"{scored.sum_seconds:.1f}",
        size(scored.num_bytes),
    ]


def verdict_lines(found: Ranking) -> list[str]:
    """Return which candidate to take and why, warnings, and the lines for the scenario."""
    told = found.recommendation
    lines = [f"[green]take {escaped(told.chosen.title)}[/]"]
    lines += [f"  {escaped(reason)}" for reason in told.reasons]
    lines += [f"[yellow]warning:[/] {escaped(warning)}" for warning in told.warnings]
    lines += [f"[yellow]left out:[/] {escaped(name)}, for the reason that the note gives" for name, _ in found.missing]
    return [*lines, "in the scenario:", escaped(told.yaml.rstrip()), f"results: {escaped(shown(found.directory))}"]
