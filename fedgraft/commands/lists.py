"""`fedgraft list`: what a scenario can name."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from fedgraft.commands.terminal import JsonOption, out, table


def list_names(
    what: Annotated[
        Literal["backbones", "sources", "partitions", "strategies", "scenarios"],
        typer.Argument(help="What to list."),
    ],
    as_json: JsonOption = False,
) -> None:
    """List what a scenario can name."""
    rows = _LISTS[what]()
    if as_json:
        print(json.dumps(rows))
        return
    out.print(table(rows))


def _backbones() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from fedgraft.models.catalogue import names

    rows = [asdict(row) for row in names()]
    return [{**row, "weights_from": row.pop("weights_from")} for row in rows]  # the longest column last


def _described(rows: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    return [{"name": name, "what": text} for name, text in rows]


def _sources() -> list[dict[str, Any]]:
    from fedgraft.data.sources import source_names

    return _described(source_names())


def _partitions() -> list[dict[str, Any]]:
    from fedgraft.data.partitions import partition_names

    return _described(partition_names())


def _strategies() -> list[dict[str, Any]]:
    from strategies.registry import STRATEGIES, USER
    from strategies.user import UserStrategy

    rows = [(name, strategy.reply, strategy) for name, strategy in STRATEGIES.items()]
    return [
        {"name": name, "replies": reply, "what": str(strategy.__doc__).splitlines()[0]}
        for name, reply, strategy in [*rows, (USER, "sum or stack", UserStrategy)]
    ]


def _scenarios() -> list[dict[str, Any]]:
    from scenarios.loader import shipped

    return _described(shipped())


_LISTS = {
    "backbones": _backbones,
    "sources": _sources,
    "partitions": _partitions,
    "strategies": _strategies,
    "scenarios": _scenarios,
}
