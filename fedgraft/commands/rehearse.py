"""`fedgraft rehearse`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgraft.commands.terminal import JsonOption, err, out, shown, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clients.site.ledger_lines import LedgerArray
    from fedgraft.rehearsal import Rehearsal


def rehearse(
    federation: Annotated[
        Path | None, typer.Argument(help="A federation.yaml; default: three sites.", metavar="FEDERATION")
    ] = None,
    scenario: Annotated[
        str | None, typer.Option("--scenario", help="What to run, instead of the federation's own.", metavar="SCENARIO")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="The run directory; default: a new one below runs/.")
    ] = None,
    log: Annotated[Path | None, typer.Option("--log", metavar="FILE", help="Write what all processes print.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Rehearse a federation on this machine: server and sites as processes, with real TLS, keys and ledgers.

    Kits are made for the rehearsal alone and removed afterwards. About half a minute.
    """
    from fedgraft.deployment.kits import read_federation
    from fedgraft.display import RunDisplay, show_result
    from fedgraft.rehearsal import THREE
    from fedgraft.rehearsal import rehearse as run_rehearsal

    settings = THREE if federation is None else read_federation(federation)
    chosen = None
    if scenario is not None:
        from scenarios.loader import load_scenario

        chosen = load_scenario(scenario)
    options: dict[str, Any] = {"out": directory, "log_file": log}
    if as_json:
        done = run_rehearsal(settings, chosen, **options)
        ledgers = {name: [line.as_json() for line in lines] for name, lines in done.ledgers.items()}
        facts = {"directory": str(done.run.directory), "behind_nginx": done.behind_nginx, "ledgers": ledgers}
        print(json.dumps(facts | done.run.summary))
        return
    try:
        with RunDisplay(err, details=False) as display:
            done = run_rehearsal(settings, chosen, on_event=display.show, **options)
    except KeyboardInterrupt:
        err.print("\nstopped; nothing is left behind")
        raise typer.Exit(130) from None
    show_result(out, done.run)
    out.print("what left the sites, by their ledgers:")
    out.print(table(_ledger_rows(done)))
    out.print(f"results: {shown(done.run.directory)}", soft_wrap=True)


MOST_NAMED = 3
"""Arrays of a group that are named one by one; the whole list stands in the ledger."""


def _what(arrays: Sequence[LedgerArray]) -> str:
    """Return what left in a few words: the arrays by group."""
    groups: dict[str, list[str]] = {}
    for array in arrays:
        group, _, name = array.name.partition(".")
        groups.setdefault(group, []).append(f"{name} {'x'.join(map(str, array.shape)) or 'number'}")
    return "; ".join(
        f"{group}: {', '.join(names) if len(names) <= MOST_NAMED else f'{len(names)} arrays'}"
        for group, names in groups.items()
    )


def _ledger_rows(done: Rehearsal) -> list[dict[str, Any]]:
    return [
        {
            "site": name,
            "number": line.number,
            "request": line.entry.request,
            "round": line.entry.round,
            "what left": line.entry.text or _what(line.entry.arrays),
            "bytes": line.entry.bytes,
        }
        for name, lines in done.ledgers.items()
        for line in lines
    ]
