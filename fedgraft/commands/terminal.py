"""What commands share: where they print, arguments that many take, tables, paths and escapes."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

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
RuntimeOption = Annotated[
    Literal["inline", "ray"] | None, typer.Option(help="Where the clients run; instead of the scenario's setting.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show the logs of Flower and Ray.")]
RunArgument = Annotated[Path, typer.Argument(help="The directory of a finished run.", metavar="RUN")]


def table(rows: list[dict[str, Any]]) -> Table:
    """Return rows of equal keys as a plain table; the first column is what a user copies, so it is never cut."""
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(rows[0]):
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(cell(value) for value in row.values()))
    return table


def cell(value: object) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else escape(str(value))


def shown(path: Path) -> str:
    """Return a path as short as it can be typed."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def resume_command() -> str:
    """Return this command line as one types it to go on with what was stopped."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return shlex.join(["fedgraft", *words, "--resume"])


def escaped(text: str) -> str:
    """Return text as rich prints it, whatever brackets are in it."""
    return escape(text)
