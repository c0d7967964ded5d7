"""`fedgraft compare`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedgraft.commands.terminal import (
    JsonOption,
    QuietOption,
    ScenarioArgument,
    SetOption,
    VerboseOption,
    err,
    escaped,
    out,
    resume_command,
    shown,
)
from fedgraft.errors import FedGraftError

if TYPE_CHECKING:
    from scenarios.comparison.findings import Analysis
    from scenarios.comparison.records import Comparison


def compare(
    scenario: ScenarioArgument,
    overrides: SetOption = [],  # noqa: B006 - typer reads it, nobody changes it
    directory: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="The comparison's directory; default: a new one below comparisons/."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the comparison in --out, or with the newest unfinished one of this scenario: finished "
            "runs stay, failed ones are tried again.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show the plan, and what the runs will cost after a short try of each contender."
        ),
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Runs that are made side by side; default: what is soonest.", min=1)
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Have a Ray cluster make the runs: `auto`, or `host:port` of its head."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a scenario's comparison: every contender under every condition with every seed, and say which is best.

    Example: [bold]fedgraft compare strategies --set compare.seeds=3 --out comparisons/first[/]
    """
    from fedgraft.commands.compare_display import CompareDisplay
    from scenarios.sweep.conduct import as_json_document, compare
    from scenarios.sweep.options import Options

    options = Options(directory, resume, dry_run, jobs, ray, verbose)
    silent = quiet or as_json
    try:
        if silent:
            found = compare(scenario, overrides, options)
        else:
            with CompareDisplay(err) as display:
                found = compare(scenario, overrides, options, display.show)
    except KeyboardInterrupt:
        err.print(f"\nstopped; go on with: [bold]{escaped(resume_command())}[/]", soft_wrap=True)
        raise typer.Exit(130) from None
    failed = [] if found.directory is None else [run for run in found.runs if run.state == "failed"]
    if as_json:
        print(json.dumps(as_json_document(found)))
    elif dry_run:
        if not quiet:
            _show_plan(found)
    else:
        _show_end(found, quiet)
    if failed:
        count = f"{len(failed)} of {len(found.runs)} runs failed"
        err.print(f"[bold red]{count}[/]; the first says: {escaped(str(failed[0].error))}", soft_wrap=True)
        raise typer.Exit(1)


def _show_plan(found: Comparison) -> None:
    """Print each contender's runs, what they will cost, and all of it together."""
    from fedgraft.commands.compare_display import plan_lines, plan_table

    out.print(plan_table(found))
    for line in plan_lines(found):
        out.print(line, soft_wrap=True)
    if found.directory is not None:
        words = ["fedgraft", *(word for word in sys.argv[1:] if word not in ("--dry-run", "--resume")), "--resume"]
        out.print(f"run it with: [bold]{escaped(shlex.join(words))}[/]", soft_wrap=True)


def _show_end(found: Comparison, quiet: bool) -> None:
    """Print the tables, the verdict, and where all of it lies; make the report."""
    if found.directory is None:
        return
    lines = [f"results: {shown(found.directory)}"]
    if any(run.state == "finished" for run in found.runs):
        from fedgraft.commands.compare_results import tables, verdict_lines
        from scenarios.comparison.analysis import analyse

        analysis = analyse(found)
        for table in () if quiet else tables(analysis):
            out.print(table)
        lines = [*verdict_lines(analysis), *lines, _report_line(found, analysis)]
    for line in () if quiet else lines:
        out.print(line, soft_wrap=True)


def _report_line(found: Comparison, analysis: Analysis) -> str:
    """Make the report; say where it is, or why there is none: the runs are done, and their results stand."""
    from scenarios.report import write_report

    try:
        return f"report: {shown(write_report(found, analysis=analysis))}"
    except FedGraftError as error:
        again = shlex.join(["fedgraft", "report", shown(found.directory or Path())])
        return f"no report: {escaped(str(error))}; then: [bold]{escaped(again)}[/]"
