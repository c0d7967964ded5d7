"""`fedgraft cache`: the features that this machine keeps."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from fedgraft.commands.terminal import JsonOption, out, table

cache = typer.Typer(help="List or clear the features that this machine keeps.", no_args_is_help=True)


@cache.command("list")
def cache_list(as_json: JsonOption = False) -> None:
    """List the kept features: backbone, cut, samples, size, when they were last used."""
    import time

    from fedgraft.features.store import FeatureStore

    store = FeatureStore()
    rows = [
        {
            "backbone": stored.entry.origin.backbone if stored.entry else f"not usable: {stored.fault}",
            "cut": stored.entry.origin.cut if stored.entry else None,
            "samples": stored.entry.shape[0] if stored.entry else None,
            "features": stored.entry.shape[1] if stored.entry else None,
            "type": stored.entry.dtype if stored.entry else None,
            "source": stored.entry.origin.source if stored.entry else None,
            "bytes": stored.num_bytes,
            "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(stored.last_used)),
        }
        for stored in store.entries()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    if rows:
        out.print(table(rows))
    total = sum(stored.num_bytes for stored in store.entries())
    out.print(f"{len(rows)} kept, {total:,} bytes, in {store.root}", soft_wrap=True)


@cache.command("clear")
def cache_clear(
    days: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", help="Only what was last used longer ago.", min=0)
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Only features of this backbone.")] = None,
) -> None:
    """Remove kept features; what a process is writing stays. They are computed again when needed."""
    from fedgraft.features.store import FeatureStore

    cleared = FeatureStore().clear(older_than_days=days, backbone=backbone)
    busy = f"; {cleared.num_busy} in use were left" if cleared.num_busy else ""
    out.print(f"removed {cleared.num_entries}, {cleared.num_bytes:,} bytes{busy}")
