"""`fedgraft run`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fedgraft.commands.terminal import (
    JsonOption,
    QuietOption,
    ScenarioArgument,
    SetOption,
    err,
    escaped,
    out,
    resume_command,
    shown,
)


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
    quiet: QuietOption = False,
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
        from fedgraft.display import RunDisplay, show_result

        if quiet or as_json:
            finished = api.run(scenario, overrides, **options)
        else:
            with RunDisplay(err, details=verbose) as display:
                finished = api.run(scenario, overrides, on_event=display.show, **options)
    except KeyboardInterrupt:
        err.print(f"\nstopped; go on with: [bold]{escaped(resume_command())}[/]", soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps({"directory": str(finished.directory), **finished.summary}))
    elif not quiet:
        show_result(out, finished)
        out.print(f"results: {shown(finished.directory)}", soft_wrap=True)
