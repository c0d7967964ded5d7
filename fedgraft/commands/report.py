"""`fedgraft report`: a page, pictures and tables of a comparison or of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedgraft.commands.terminal import err, escaped, out, shown


def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="A comparison's directory, or those of one or more runs.")
    ],
    directory: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where report.html, figures/ and tables/ go; default: into the comparison or the only run, "
            "otherwise into a new directory below reports/.",
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of several runs: the contender that the others are held against."),
    ] = None,
) -> None:
    """Make a report to look at: verdict, curves, tables, clients, costs, in one HTML file that needs no network.

    Beside it lie the figures as PNG and SVG, the numbers as CSV and Parquet, and tables for papers.

    Example: [bold]fedgraft report runs/uneven runs/even --out reports/skew[/]
    """
    from fedgraft.launch import quieten
    from scenarios.report import check_installed, write_report
    from scenarios.report.sources import comparison_in

    check_installed()
    quieten(verbose=False)
    comparison, place = comparison_in(directories, directory, baseline)
    for left_out in comparison.left_out:
        err.print(f"[yellow]left out:[/] {escaped(shown(left_out.path))}: {escaped(left_out.reason)}", soft_wrap=True)
    for note in comparison.notes:
        err.print(f"[yellow]note:[/] {escaped(note)}", soft_wrap=True)
    path = write_report(comparison, place)
    out.print(f"report: {shown(path)}", soft_wrap=True)
    out.print(f"pictures and tables: {shown(place / 'figures')}, {shown(place / 'tables')}", soft_wrap=True)
