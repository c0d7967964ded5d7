"""The command line: its groups of commands together, and how it ends. Each command is in `fedgraft/commands/`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from fedgraft import __version__
from fedgraft.commands import check, cluster, compare, deployed, lists, rank, report, run, trained
from fedgraft.commands.cache import cache
from fedgraft.commands.provision import provision
from fedgraft.commands.rehearse import rehearse
from fedgraft.commands.site import site
from fedgraft.commands.terminal import err, escaped, out
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
app.add_typer(cache, name="cache")
app.add_typer(deployed.server, name="server")
app.add_typer(site, name="site")


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


app.command()(run.run)
app.command()(check.check)
app.command()(compare.compare)
app.command()(rank.rank)
app.command()(cluster.cluster)
app.command("list")(lists.list_names)
app.command()(provision)
for command in (trained.predict, trained.export, trained.contribution, trained.unlearn):
    app.command()(command)
app.command()(deployed.submit)
app.command()(deployed.status)
app.command()(deployed.stop)
app.command()(report.report)
app.command()(rehearse)


def main() -> None:
    """Run the command line; a fault that the user can mend is printed without a traceback, exit code 2."""
    try:
        app()
    except FedGraftError as error:
        err.print(f"[bold red]error:[/] {escaped(str(error))}", soft_wrap=True)
        sys.exit(2)
    except BrokenPipeError:
        os._exit(141)  # the reader of our output has gone, as with `| head`
