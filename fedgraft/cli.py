"""The command line. Heavy imports are inside the commands, so that `--help` comes at once."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from fedgraft import __version__
from fedgraft.errors import FedGraftError

app = typer.Typer(
    name="fedgraft",
    help=(
        "Federated transfer learning: train new heads on shared, frozen, pretrained backbones, "
        "across owners of private data.\n\n"
        "Start with: [bold]fedgraft run quickstart[/]. Then copy a scenario, change it, check it and run it."
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cache = typer.Typer(help="List or clear the features that this machine keeps.", no_args_is_help=True)
app.add_typer(cache, name="cache")

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False)

ScenarioArgument = Annotated[
    str, typer.Argument(help="A scenario file, or the name of a shipped one ([bold]fedgraft list scenarios[/]).")
]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting: --set train.batch_size=20. May be repeated."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines, and nothing else.")]
RunArgument = Annotated[Path, typer.Argument(help="The directory of a finished run.", metavar="RUN")]


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"fedgraft {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Federated transfer learning."""


@app.command()
def run(
    scenario: ScenarioArgument,
    overrides: SetOption = [],  # noqa: B006 - typer reads it, nobody changes it
    runtime: Annotated[
        Literal["inline", "ray", "flower"] | None,
        typer.Option(help="Where the clients run; instead of the scenario's setting."),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run directory; default: a new one below runs/.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the unfinished run in --out, or with the newest of this scenario."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    as_json: JsonOption = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show each client's part, phases, and the logs of Flower and Ray.")
    ] = False,
) -> None:
    """Run a scenario: train heads, federated, and write everything that came out into a run directory.

    Example: [bold]fedgraft run quickstart --set data.partition.alpha=0.1 --out runs/uneven[/]
    """
    options: dict[str, Any] = {"runtime": runtime, "out": directory, "resume": resume, "verbose": verbose}
    try:
        from fedgraft import api
        from fedgraft.display import RunDisplay, result_table

        if quiet or as_json:
            finished = api.run(scenario, overrides, **options)
        else:
            with RunDisplay(err, details=verbose) as display:
                finished = api.run(scenario, overrides, on_event=display.show, **options)
    except KeyboardInterrupt:
        err.print(f"\nstopped; go on with: [bold]{_escaped(_resume_command())}[/]", soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps({"directory": str(finished.directory), **finished.summary}))
    elif not quiet:
        out.print(result_table(finished))
        out.print(f"results: {_shown(finished.directory)}", soft_wrap=True)


def _resume_command() -> str:
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["fedgraft", *words, "--resume"])


def _shown(path: Path) -> str:
    """Return a path as short as it can be typed."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


@app.command()
def check(scenario: ScenarioArgument, overrides: SetOption = [], as_json: JsonOption = False) -> None:  # noqa: B006
    """Check a scenario without training: file, data, backbone, runtime; show what each client would have.

    All faults of the file are named at once, with key and line; the exit code is 2 if there is one.
    """
    import numpy as np

    from fedgraft import api
    from fedgraft.data.federation import build_federation
    from fedgraft.data.summary import partition_table
    from fedgraft.models.registry import describe
    from server.forecast import forecast

    resolved = api.resolve(scenario, overrides)
    api.quieten(verbose=False)
    api.check_strategy(resolved)
    where = api.runtime_line(resolved)
    federation = build_federation(resolved.data, resolved.seed)
    resolved.server.check_cohort(federation.num_clients, resolved.name)
    backbone = describe(resolved.backbone)
    feature_dim = backbone.feature_dim or federation.samples.features().shape[1]
    samples = federation.samples
    num_labels = federation.num_labels() if samples.task == "classes" else None
    num_outputs = samples.num_classes if num_labels is not None else int(np.prod(samples.targets.shape[1:]))
    lines = [
        line
        for strategy in (resolved.strategy, resolved.init, resolved.calibrate)
        if strategy is not None
        for line in forecast(strategy, num_outputs, feature_dim, samples.task, num_labels)
    ]
    if as_json:
        facts = {
            "scenario": json.loads(resolved.model_dump_json()),
            "num_clients": federation.num_clients,
            "num_train": int(federation.train.counts.sum()),
            "num_validation": int(federation.validation.counts.sum()),
            "num_test": len(federation.test),
            "label_names": list(federation.samples.label_names),
            "feature_dim": feature_dim,
            "notes": list(federation.notes),
            "forecast": lines,
            "runtime": where,
        }
        print(json.dumps(facts))
        return
    out.print(partition_table(federation))
    for note in federation.notes:
        out.print(f"[yellow]note:[/] {note}")
    out.print(f"backbone {backbone.name}, cut at {backbone.cut}: {feature_dim} features a sample")
    for line in [*lines, where]:
        out.print(line)
    out.print(f"[green]{resolved.name} can run[/]")


@app.command("list")
def list_names(
    what: Annotated[
        Literal["backbones", "sources", "partitions", "strategies", "scenarios"],
        typer.Argument(help="What to list."),
    ],
    as_json: JsonOption = False,
) -> None:
    """List what a scenario can name."""
    rows = _LISTS[what]()
    if as_json:
        print(json.dumps(rows))
        return
    out.print(_table(rows))


def _table(rows: list[dict[str, Any]]) -> Table:
    """Return rows of equal keys as a plain table; the first column is what a user copies, so it is never cut."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(rows[0]):
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: object) -> str:
    from rich.markup import escape

    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else escape(str(value))


def _backbones() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from fedgraft.models.catalogue import names

    rows = [asdict(row) for row in names()]
    return [{**row, "weights_from": row.pop("weights_from")} for row in rows]  # the longest column last


def _described(rows: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    return [{"name": name, "what": text} for name, text in rows]


def _sources() -> list[dict[str, Any]]:
    from fedgraft.data.sources import source_names

    return _described(source_names())


def _partitions() -> list[dict[str, Any]]:
    from fedgraft.data.partitions import partition_names

    return _described(partition_names())


def _strategies() -> list[dict[str, Any]]:
    from strategies.registry import STRATEGIES, USER
    from strategies.user import UserStrategy

    rows = [(name, strategy.reply, strategy) for name, strategy in STRATEGIES.items()]
    return [
        {"name": name, "replies": reply, "what": str(strategy.__doc__).splitlines()[0]}
        for name, reply, strategy in [*rows, (USER, "sum or stack", UserStrategy)]
    ]


def _scenarios() -> list[dict[str, Any]]:
    from scenarios.loader import shipped

    return _described(shipped())


_LISTS = {
    "backbones": _backbones,
    "sources": _sources,
    "partitions": _partitions,
    "strategies": _strategies,
    "scenarios": _scenarios,
}


@app.command()
def predict(
    run_directory: RunArgument,
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", metavar="FILES...")],
    as_json: JsonOption = False,
) -> None:
    """Say which class a trained model sees in your own files, and how sure it is.

    Example: [bold]fedgraft predict runs/quickstart-20260101-120000-ab12 photo.png[/]
    """
    from fedgraft import api
    from fedgraft.display import RunDisplay
    from fedgraft.progress import listening

    api.quieten(verbose=False)
    with RunDisplay(err, details=False) as display, listening(display.show):  # tells of files that are left out
        predictions = api.load(run_directory).predict(files)
    if as_json:
        print(json.dumps([prediction.as_json() for prediction in predictions]))
        return
    table = Table(box=None, pad_edge=False)
    for column in ("file", "prediction", "probability"):
        table.add_column(column, overflow="fold", no_wrap=column != "file")
    for prediction in predictions:
        table.add_row(*(_cell(value) for value in prediction.row()))
    out.print(table)


@app.command()
def export(
    run_directory: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="FILE.onnx, FILE.safetensors or FILE.pt2.")],
    as_json: JsonOption = False,
) -> None:
    """Write a run's backbone and head together into one file that other software loads.

    Example: [bold]fedgraft export runs/quickstart-20260101-120000-ab12 --to digits.onnx[/]
    """
    from fedgraft import api

    api.quieten(verbose=False)
    report = api.load(run_directory).export(to)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        out.print(report.text(), soft_wrap=True)


@app.command()
def contribution(run_directory: RunArgument, as_json: JsonOption = False) -> None:
    """Show what each client's samples changed: the score of all on the central test part, less that without it.

    For runs of a closed form (ridge, ncm, lda, fedcof) with [bold]--set evaluation.contribution=true[/].
    """
    from fedgraft import api

    found = api.load(run_directory).contributions()
    rows = [
        {"client": one.client, "num_train": one.num_train, f"{one.metric}_without": one.score_without, "effect": effect}
        for one in sorted(found, key=lambda one: -(one.effect or 0.0))
        for effect in (one.effect,)
    ]
    if as_json:
        print(json.dumps(rows))
        return
    shown = [
        {name: f"{value:+.4f}" if name == "effect" else f"{value:.4f}" if isinstance(value, float) else value
         for name, value in row.items() if value is not None}
        for row in rows
    ]  # fmt: skip
    out.print(_table(shown))
    if found[0].score is None:
        out.print("[yellow]note:[/] the run had no central test part to score on; unlearn works all the same")
    else:
        out.print(f"{found[0].metric} with all clients: {found[0].score:.4f}")


@app.command()
def unlearn(
    run_directory: RunArgument,
    client: Annotated[str, typer.Option("--client", metavar="NAME", help="The client to forget.")],
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new run directory.")],
) -> None:
    """Write a run whose head is that of all other clients, as if one had never been there.

    Example: [bold]fedgraft unlearn runs/ridge --client client-007 --out runs/ridge-without-007[/]
    """
    from fedgraft import api

    done = api.load(run_directory).unlearn(client, to)
    out.print(f"the head without {_escaped(client)}: {_shown(done.directory)}", soft_wrap=True)
    out.print(
        f"[yellow]note:[/] {_shown(run_directory)} still holds heads that {_escaped(client)} took part in; remove it",
        soft_wrap=True,
    )


@cache.command("list")
def cache_list(as_json: JsonOption = False) -> None:
    """List the kept features: backbone, cut, samples, size, when they were last used."""
    import time

    from fedgraft.features.store import FeatureStore

    store = FeatureStore()
    rows = [
        {
            "backbone": stored.entry.origin.backbone if stored.entry else f"not usable: {stored.fault}",
            "cut": stored.entry.origin.cut if stored.entry else None,
            "samples": stored.entry.shape[0] if stored.entry else None,
            "features": stored.entry.shape[1] if stored.entry else None,
            "type": stored.entry.dtype if stored.entry else None,
            "source": stored.entry.origin.source if stored.entry else None,
            "bytes": stored.num_bytes,
            "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(stored.last_used)),
        }
        for stored in store.entries()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    if rows:
        out.print(_table(rows))
    total = sum(stored.num_bytes for stored in store.entries())
    out.print(f"{len(rows)} kept, {total:,} bytes, in {store.root}", soft_wrap=True)


@cache.command("clear")
def cache_clear(
    days: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", help="Only what was last used longer ago.", min=0)
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Only features of this backbone.")] = None,
) -> None:
    """Remove kept features; what a process is writing stays. They are computed again when needed."""
    from fedgraft.features.store import FeatureStore

    cleared = FeatureStore().clear(older_than_days=days, backbone=backbone)
    busy = f"; {cleared.num_busy} in use were left" if cleared.num_busy else ""
    out.print(f"removed {cleared.num_entries}, {cleared.num_bytes:,} bytes{busy}")


def main() -> None:
    """Run the command line; a fault that the user can mend is printed without a traceback, exit code 2."""
    try:
        app()
    except FedGraftError as error:
        err.print(f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(2)
    except BrokenPipeError:
        os._exit(141)  # the reader of our output has gone, as with `| head`


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
