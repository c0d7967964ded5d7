"""Commands at the server of a federation: `server start`, `server sites`, `submit`, `status`, `stop`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedgraft.commands.terminal import (
    JsonOption,
    SetOption,
    err,
    escaped,
    out,
    shown,
    table,
)
from fedgraft.errors import LaunchError

if TYPE_CHECKING:
    from fedgraft.progress import Event
    from fedgraft.runs import Run

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


@server.command("sites")
def sites(kit: KitArgument, as_json: JsonOption = False) -> None:
    """Have the running server let exactly the sites of `server.yaml` join; no restart, and runs go on.

    After a site was added or revoked (`fedgraft provision`). A revoked site is shut out at once.
    """
    from fedgraft.deployment.kits import read_server
    from server.deployment.control import Control

    with Control(read_server(kit)) as control:
        added, removed = control.register_sites()
    if as_json:
        print(json.dumps({"added": added, "removed": removed}))
        return
    for text, names in (("may join now", added), ("may not join any more", removed)):
        for name in names:
            out.print(f"{escaped(name)} {text}", soft_wrap=True)
    if not added and not removed:
        out.print("nothing has changed")


def submit(
    kit: KitOption,
    scenario: Annotated[
        str | None,
        typer.Argument(help="A scenario file, or the name of a shipped one ([bold]fedgraft list scenarios[/])."),
    ] = None,
    overrides: SetOption = [],  # noqa: B006 - typer reads it, nobody changes it
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            help="Instead of a scenario: follow this run, by the beginning of its id; if it has failed or was stopped, "
            "it goes on from its last checkpoint.",
            metavar="RUN",
        ),
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where results are fetched to; default: below runs/.")
    ] = None,
    as_json: JsonOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show phases as well.")] = False,
) -> None:
    """Run a scenario at the sites of a federation, on their own data; the scenario's `data.source` is left aside.

    Example: [bold]fedgraft submit my-scenario.yaml --kit kits/server[/]

    Ctrl-C leaves the run going on: [bold]--resume RUN[/] follows it again, `fedgraft stop RUN --kit KIT` ends it.
    """
    from fedgraft.deployed_runs import resume as resume_run
    from fedgraft.deployed_runs import submit as submit_run
    from fedgraft.deployment.kits import read_server
    from fedgraft.display import RunDisplay, show_result

    if (scenario is None) == (resume is None) or (resume is not None and overrides):
        raise LaunchError(
            "came neither a scenario nor --resume RUN; give one of them"
            if scenario is None and resume is None
            else "--resume goes on with a run as it was submitted; leave the scenario and --set out"
        )
    folder = read_server(kit)

    def run(on_event: Callable[[Event], None] | None = None) -> Run:
        if resume is not None:
            return resume_run(resume, folder, out=directory, on_event=on_event)
        return submit_run(str(scenario), folder, overrides, out=directory, on_event=on_event)

    try:
        if as_json:
            finished = run()
        else:
            with RunDisplay(err, details=verbose) as display:
                finished = run(display.show)
    except KeyboardInterrupt:
        text = "the run goes on at the server; see: [bold]fedgraft status --kit KIT[/], and follow it with --resume RUN"
        err.print(f"\n{text}", soft_wrap=True)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps({"directory": str(finished.directory), **finished.summary}))
        return
    show_result(out, finished)
    out.print(f"results: {shown(finished.directory)}", soft_wrap=True)


def status(kit: KitOption, as_json: JsonOption = False) -> None:
    """Show which sites are there, and the server's runs."""
    from fedgraft.deployment.kits import read_server
    from fedgraft.server_runs import run_lines
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
    from fedgraft.deployment.kits import read_server
    from fedgraft.server_runs import stop as stop_run
    from server.deployment.control import Control

    with Control(read_server(kit)) as control:
        stop_run(control, run)
    out.print(f"stopped {escaped(run)}", soft_wrap=True)
