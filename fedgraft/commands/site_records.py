"""`fedgraft site check` and `fedgraft site ledger`: what a site looks at before it starts, and afterwards."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgraft.commands.terminal import JsonOption, err, escaped, out, table
from fedgraft.errors import FedGraftError

if TYPE_CHECKING:
    from clients.site.ledger_check import Verification
    from clients.site.ledger_lines import LedgerEntry, Recorded

KitArgument = Annotated[Path, typer.Argument(help="The site's kit, as `fedgraft provision` made it.", metavar="KIT")]

COLOURS = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def check(kit: KitArgument, as_json: JsonOption = False) -> None:
    """Look at everything that a site needs before it starts, and say what to do about each fault.

    Settings, key, disk, memory, GPU; the way to the server, its certificate, clock and software; the data. The exit
    code is 2 if there is a fault.
    """
    from clients.site.check.preflight import preflight
    from fedgraft.deployment.kits import read_site

    folder = read_site(kit)
    os.environ["XDG_CACHE_HOME"] = folder.settings.cache_dir
    findings = []
    for finding in preflight(folder):
        findings.append(finding)
        if not as_json:
            colour = COLOURS[finding.level]
            out.print(f"[{colour}]{finding.level:<7}[/] {finding.what}: {escaped(finding.text)}", soft_wrap=True)
            if finding.advice:
                out.print(f"        -> {escaped(finding.advice)}", soft_wrap=True)
    counts = {level: sum(finding.level == level for finding in findings) for level in COLOURS}
    if as_json:
        print(json.dumps({"site": folder.settings.name, **counts, "findings": [vars(finding) for finding in findings]}))
    else:
        verdict = "can't start" if counts["fault"] else "can start"
        numbers = ", ".join(_counted(counts[level], level) for level in ("fault", "warning"))
        out.print(f"{folder.settings.name} {verdict}: {numbers}")
    if counts["fault"]:
        raise typer.Exit(2)


def ledger(
    words: Annotated[
        list[str],
        typer.Argument(
            help="The site's kit; before it `verify`, to find out whether the list was changed.", metavar="[verify] KIT"
        ),
    ],
    head: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER:HASH", help="With verify: a head that was noted earlier, elsewhere; it must be in."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Show only a run, by the beginning of its id.", metavar="RUN")] = None,
    full: Annotated[bool, typer.Option("--full", help="Name single numbers one by one too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show everything that ever left this site: when, for which run and request, names, shapes, bytes, digest.

    [bold]fedgraft site ledger verify KIT[/] finds out whether the list was changed; then the exit code is 2.
    """
    from clients.site.ledger_check import verify
    from clients.site.ledger_lines import Head
    from fedgraft.deployment.kits import read_site

    wants_verdict, kit = _words(words)
    found = verify(read_site(kit).ledger, None if head is None else Head.parse(head))
    if wants_verdict:
        _verdict(found, as_json)
        return
    lines = [line for line in found.lines if run is None or line.entry.run.startswith(run)]
    if as_json:
        print(json.dumps({"faults": found.faults, "entries": [line.as_json() for line in lines]}))
    else:
        out.print(table([_row(line, full) for line in lines]) if lines else "nothing has left this site")
        out.print(f"{_counted(len(lines), 'answer')}, {sum(line.entry.bytes for line in lines):,} bytes")
        for text in found.faults:
            err.print(f"[bold red]changed:[/] {escaped(text)}", soft_wrap=True)


def _counted(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _words(words: list[str]) -> tuple[bool, Path]:
    """Return whether a verdict is wanted, and the kit."""
    if len(words) == 1:
        return False, Path(words[0])
    if len(words) == 2 and words[0] == "verify":
        return True, Path(words[1])
    raise FedGraftError(f"came '{' '.join(words)}'; expected `fedgraft site ledger KIT` or `... ledger verify KIT`")


def _verdict(found: Verification, as_json: bool) -> None:
    if as_json:
        facts = {"whole": not found.faults, "head": str(found.head), "faults": found.faults, "torn": len(found.torn)}
        print(json.dumps(facts))
    else:
        for text in found.faults:
            out.print(f"[bold red]changed:[/] {escaped(text)}", soft_wrap=True)
        if found.torn:
            out.print("[yellow]note:[/] the last line is unfinished: a power failure, or somebody wrote there")
        if not found.faults:
            out.print(
                f"[green]whole:[/] {found.head.number} entries; note this head elsewhere: {found.head}", soft_wrap=True
            )
    if found.faults:
        raise typer.Exit(2)


def _row(line: Recorded, full: bool) -> dict[str, Any]:
    entry = line.entry
    arrays = "; ".join(_left(entry, full)) or ", ".join(entry.facts)
    return {
        "number": line.number,
        "time": line.time[:19].replace("T", " "),
        "run": entry.run[:8],
        "request": entry.request,
        "round": entry.round,
        "what left": f"refused: {entry.text}" if entry.outcome == "refusal" else arrays,
        "bytes": entry.bytes,
        "digest": entry.digest[:12],
    }


def _left(entry: LedgerEntry, full: bool) -> Iterator[str]:
    """Yield what left, the single numbers together by their group."""
    single: dict[str, int] = {}
    for array in entry.arrays:
        if full or math.prod(array.shape) > 1:
            yield f"{array.name} {array.dtype}{list(array.shape)}"
        else:
            group = array.name.partition(".")[0]
            single[group] = single.get(group, 0) + 1
    yield from (f"{count} single number{'s' if count > 1 else ''} of {group}" for group, count in single.items())
