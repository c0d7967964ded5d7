"""Commands at a site of a federation."""

from __future__ import annotations

import typer

from fedgraft.commands.site_records import KitArgument, check, ledger

site = typer.Typer(help="Run and look after one site of a federation.", no_args_is_help=True)
site.command("check")(check)
site.command("ledger")(ledger)


@site.command("start")
def start(kit: KitArgument) -> None:
    """Run the site: Flower's SuperNode, the messenger, and the resident host that alone sees the data.

    Ends with Ctrl-C or SIGTERM; a process that ends is started again.
    """
    from clients.site.start import start_site
    from fedgraft.deployment.kits import read_site

    start_site(read_site(kit))
