"""Commands on a finished run: `predict`, `export`, `contribution`, `unlearn`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fedgraft.commands.terminal import JsonOption, RunArgument, cell, err, escaped, out, shown, table


def predict(
    run_directory: RunArgument,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="What the run was trained on: images, texts (.txt, .csv), or rows (.csv, .parquet, .npz, .npy); "
            "or folders of them.",
            metavar="[FILES...]",
        ),
    ] = None,
    texts: Annotated[
        list[str] | None, typer.Option("--text", metavar="TEXT", help="A text, as often as you like.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a trained model makes of your own files or texts: which class or labels, how sure it is, or numbers.

    Example: [bold]fedgraft predict runs/quickstart-20260101-120000-ab12 photo.png[/]
    """
    from fedgraft.api import load
    from fedgraft.display import RunDisplay
    from fedgraft.launch import quieten
    from fedgraft.progress import listening

    quieten(verbose=False)
    with RunDisplay(err, details=False) as display, listening(display.show):  # tells of files that are left out
        run = load(run_directory)
        predictions = run.predict_texts(texts) if texts else []
        if files or not texts:
            predictions += run.predict(files or [])
    if as_json:
        print(json.dumps([prediction.as_json() for prediction in predictions]))
        return
    table = Table(box=None, pad_edge=False)
    rows = [prediction.row() for prediction in predictions]
    columns = ("text" if texts else "file", "prediction", "probability")[
        : 3 if any(row[2] is not None for row in rows) else 2
    ]
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in ("file", "text"))
    for row in rows:
        table.add_row(*(cell(value) for value in row[: len(columns)]))
    out.print(table)


def export(
    run_directory: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="FILE.onnx, FILE.safetensors or FILE.pt2.")],
    as_json: JsonOption = False,
) -> None:
    """Write a run's backbone and head together into one file that other software loads.

    Example: [bold]fedgraft export runs/quickstart-20260101-120000-ab12 --to digits.onnx[/]
    """
    from fedgraft.api import load
    from fedgraft.display import RunDisplay
    from fedgraft.launch import quieten
    from fedgraft.progress import listening

    quieten(verbose=False)
    with RunDisplay(err, details=False) as display, listening(display.show):  # tells what the file does not do
        report = load(run_directory).export(to)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        out.print(report.text(), soft_wrap=True)


def contribution(run_directory: RunArgument, as_json: JsonOption = False) -> None:
    """Show what each client's samples changed: the score of all on the central test part, less that without it.

    For runs of a closed form (ridge, ncm, lda, fedcof) with [bold]--set evaluation.contribution=true[/].
    """
    from fedgraft.api import load

    found = load(run_directory).contributions()
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
    out.print(table(shown))
    if found[0].score is None:
        out.print("[yellow]note:[/] the run had no central test part to score on; unlearn works all the same")
    else:
        out.print(f"{found[0].metric} with all clients: {found[0].score:.4f}")


def unlearn(
    run_directory: RunArgument,
    client: Annotated[str, typer.Option("--client", metavar="NAME", help="The client to forget.")],
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="The new run directory.")],
) -> None:
    """Write a run whose head is that of all other clients, as if one had never been there.

    Example: [bold]fedgraft unlearn runs/ridge --client client-007 --out runs/ridge-without-007[/]
    """
    from fedgraft.api import load

    done = load(run_directory).unlearn(client, to)
    out.print(f"the head without {escaped(client)}: {shown(done.directory)}", soft_wrap=True)
    out.print(
        f"[yellow]note:[/] {shown(run_directory)} still holds heads that {escaped(client)} took part in; remove it",
        soft_wrap=True,
    )
