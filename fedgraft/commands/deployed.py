"""Commands at the server of a federation: `server start`, `submit`, `status`, `stop`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from fedgraft.commands.terminal import (
    JsonOption,
    ScenarioArgument,
    SetOption,
    err,
    escaped,
    out,
    shown,
    table,
)

server = typer.Typer(help="Run the server of a federation of separate machines.", no_args_is_help=True)

KitArgument = Annotated[Path, typer.Argument(help="The server's kit, as `fedgraft provision` made it.", metavar="KIT")]
KitOption = Annotated[Path, typer.Option("--kit", help="The server's kit, on the server's own machine.", metavar="KIT")]


@server.command("start")
def start(
    kit: KitArgument,
    no_nginx: Annotated[
        bool, typer.Option("--no-nginx", help="Do not start nginx: you run it yourself, with the kit's nginx.conf.")
    ] = False,
) -> None:
    """Run the server: Flower's SuperLink on loopback, its SuperExec, and nginx in front for the sites.

    Ends with Ctrl-C or SIGTERM. Runs that were interrupted go on from their last checkpoint.
    """
    from fedgraft.deployment.kits import read_server
    from server.deployment.start import start_server

    start_server(read_server(kit), behind_own_proxy=no_nginx)


def submit(
    scenario: ScenarioArgument,
    kit: KitOption,
    overrides: SetOption = [],  # noqa: B006 - typer reads it, nobody changes it
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where results are fetched to; default: below runs/.")
    ] = None,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show phases as well.")] = False,
) -> None:
    """Run a scenario at the sites of a federation, on their own data; the scenario's `data.source` is left aside.

    Example: [bold]fedgraft submit my-scenario.yaml --kit kits/server[/]

    Ctrl-C leaves the run going on; `fedgraft stop RUN --kit KIT` ends it.
    """
    from fedgraft.deployed_runs import submit as submit_run
    from fedgraft.deployment.kits import read_server
    from fedgraft.display import RunDisplay, show_result

    folder = read_server(kit)
    try:
        if as_json:
            finished = submit_run(scenario, folder, overrides, out=directory)
        else:
            with RunDisplay(err, details=verbose) as display:
                finished = submit_run(scenario, folder, overrides, out=directory, on_event=display.show)
    except KeyboardInterrupt:
        err.print("\nthe run goes on at the server; see: [bold]fedgraft status --kit KIT[/]", soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps({"directory": str(finished.directory), **finished.summary}))
        return
    show_result(out, finished)
    out.print(f"results: {shown(finished.directory)}", soft_wrap=True)


def status(kit: KitOption, as_json: JsonOption = False) -> None:
    """Show which sites are there, and the server's runs."""
    from fedgraft.deployed_runs import run_lines
    from fedgraft.deployment.kits import read_server
    from server.deployment.control import Control

    with Control(read_server(kit)) as control:
        nodes, runs = control.nodes(), run_lines(control)
    sites = [{"site": node.name, "there": node.online, "since": node.last_seen or "never came"} for node in nodes]
    rows = [dataclasses.asdict(run) for run in runs]
    if as_json:
        print(json.dumps({"sites": sites, "runs": rows}))
        return
    for name, found in (("sites", sites), ("runs", rows)):
        out.print(table(found) if found else f"no {name}", soft_wrap=True)


def stop(
    run: Annotated[str, typer.Argument(help="The beginning of the run's id, as `fedgraft status` shows it.")],
    kit: KitOption,
) -> None:
    """Stop a run of the server; what it wrote stays."""
    from fedgraft.deployed_runs import stop as stop_run
    from fedgraft.deployment.kits import read_server
    from server.deployment.control import Control

    with Control(read_server(kit)) as control:
        stop_run(control, run)
    out.print(f"stopped {escaped(run)}", soft_wrap=True)
